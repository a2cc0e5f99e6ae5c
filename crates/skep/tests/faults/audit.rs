//! What must be true at the end, whatever went wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};
use skep_core::db::{Db, Limits};

use crate::{
    client::{Answer, Client},
    reader::Way,
    writer::{Deed, Fate, Kind, Ledger, TASKS, ids, list, moment, number},
};

/// Rows of a page.
const PAGE: usize = 1000;

/// Looks at everything through a hub, as an operator.
pub(crate) struct Audit<'a> {
    pub(crate) client: Client,
    pub(crate) ledgers: &'a [Ledger],
}

/// What a workspace has: for each kind and name, where it was found, and with which number or revision.
type Found = HashMap<(&'static str, String), Vec<(String, i64)>>;

/// The revisions of a file with their contents, from the first.
type Revisions = BTreeMap<String, Vec<String>>;

impl Audit<'_> {
    fn complain(&self, what: impl std::fmt::Display) {
        self.client.cluster.notes.complain(what);
    }

    async fn ask(&mut self, tool: &'static str, arguments: Value) -> Value {
        match self.client.call(tool, arguments).await {
            Answer::Done(said) => said,
            other => panic!("{tool}: {other:?}"),
        }
    }

    /// The whole log of a workspace.
    pub(crate) async fn events(&mut self, task: &str) -> Vec<Value> {
        let (url, mut events) = (self.client.cluster.hubs[self.client.hub].url().unwrap(), Vec::new());
        loop {
            let after = events.len();
            let page = self.client.get(&format!("{url}/api/v1/events?task={task}&after={after}&limit={PAGE}")).await;
            if list(&page, "events").is_empty() {
                return events;
            }
            events.extend(list(&page, "events").iter().cloned());
        }
    }

    pub(crate) async fn check(&mut self, logs: &[Vec<Value>], readers: &[(&'static str, Way, Vec<Value>)]) {
        for (task, log) in TASKS.into_iter().zip(logs) {
            self.check_numbers(task, "event", log.iter().map(|event| number(event, "number")));
            for (_, way, read) in readers.iter().filter(|(of, ..)| *of == task) {
                let differ = read.iter().zip(log).filter(|(read, logged)| read != logged).count();
                if read.len() != log.len() || differ > 0 {
                    let (read, log) = (read.len(), log.len());
                    self.complain(format!(
                        "the reader of {task} by {way:?} read {read} of {log} events; {differ} differ"
                    ));
                }
            }
            let mut found = Found::new();
            self.find_steps(task, &mut found).await;
            self.find_messages(task, &mut found).await;
            let files = self.files(task).await;
            self.find_in_files(task, &files, &mut found);
            self.check_deeds(task, found);
            self.check_counters(task, log).await;
            self.check_events(task, log, &files);
            self.check_claims(task, log, &files);
        }
        let db = Db::open(&self.client.cluster.address(), Limits::default()).await.unwrap();
        let audit = db.audit().await.unwrap();
        if !audit.findings.is_empty() || audit.events_missing > 0 {
            self.complain(format!("the audit of the database: {audit:#?}"));
        }
    }

    fn check_numbers(&self, task: &str, what: &str, numbers: impl IntoIterator<Item = i64>) {
        for (expected, found) in (1..).zip(numbers) {
            if found != expected {
                return self
                    .complain(format!("{task}: {what} {expected} is missing, or its number was given twice: {found}"));
            }
        }
    }

    async fn find_steps(&mut self, task: &'static str, found: &mut Found) {
        let mut numbers = Vec::new();
        loop {
            let after = numbers.len();
            let page = self.ask("read_logs", json!({ "task_id": task, "after": after, "limit": PAGE })).await;
            for step in list(&page, "logs") {
                numbers.push(number(step, "sequence"));
                found
                    .entry(("step", text(&step["message"])))
                    .or_default()
                    .push((String::new(), number(step, "sequence")));
            }
            if page["has_more"] == false {
                return self.check_numbers(task, "step", numbers);
            }
        }
    }

    async fn find_messages(&mut self, task: &'static str, found: &mut Found) {
        let mut numbers = Vec::new();
        loop {
            let after = numbers.len();
            let read = json!({ "task_id": task, "all_agents": true, "after": after, "limit": PAGE });
            let page = self.ask("read_messages", read).await;
            for message in list(&page, "messages") {
                numbers.push(number(message, "number"));
                let id = text(&message["body"]["id"]);
                found.entry(("message", id)).or_default().push((String::new(), number(message, "number")));
            }
            if page["has_more"] == false {
                return self.check_numbers(task, "message", numbers);
            }
        }
    }

    async fn files(&mut self, task: &'static str) -> Revisions {
        let page = self.ask("list_files", json!({ "task_id": task, "recursive": true })).await;
        let mut files = Revisions::new();
        for file in list(&page, "files") {
            let (path, last) = (text(&file["path"]), number(file, "revision"));
            let mut contents = Vec::new();
            for revision in 1..=last {
                let read = json!({ "task_id": task, "path": path, "revision": revision });
                contents.push(text(&self.ask("file_read", read).await["content"]));
            }
            files.insert(path, contents);
        }
        files
    }

    fn find_in_files(&self, task: &str, files: &Revisions, found: &mut Found) {
        for (path, contents) in files {
            let mut before = "";
            for (revision, content) in (1..).zip(contents) {
                let (kind, id, place) = if path.starts_with("guarded/") {
                    let (token, id) = content.trim().split_once(' ').unwrap_or_default();
                    ("guarded", id, format!("{path} under {token}"))
                } else {
                    let new = content.strip_prefix(before).unwrap_or_default();
                    if new.lines().count() != 1 {
                        self.complain(format!("{task}: {path} has lost lines at revision {revision}"));
                    }
                    ("line", ids(new).next().unwrap_or_default(), path.clone())
                };
                found.entry((kind, id.to_owned())).or_default().push((place, revision));
                before = content;
            }
        }
    }

    fn check_deeds(&self, task: &str, mut found: Found) {
        for deed in self.ledgers.iter().flat_map(|ledger| &ledger.deeds).filter(|deed| deed.task == task) {
            let (kind, place) = match &deed.kind {
                Kind::Step => ("step", String::new()),
                Kind::Message => ("message", String::new()),
                Kind::Line { path } => ("line", path.clone()),
                Kind::Guarded { path, token } => ("guarded", format!("{path} under {token}")),
                Kind::Count { .. } => continue,
            };
            let at = found.remove(&(kind, deed.id.clone())).unwrap_or_default();
            let is_right = match deed.fate {
                Fate::Acknowledged(0) => at.len() == 1,
                Fate::Acknowledged(number) => at == [(place, number)],
                Fate::Refused => at.is_empty(),
                Fate::Unsure => at.len() <= 1,
            };
            if !is_right {
                self.complain(format!("{deed:?} is at {at:?}"));
            }
        }
        if !found.is_empty() {
            self.complain(format!("{task}: nobody has done {found:?}"));
        }
    }

    /// Entries that all have counted up: as often as they were stored, and each at the revision that was acknowledged.
    async fn check_counters(&mut self, task: &'static str, log: &[Value]) {
        let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in log.iter().filter(|event| event["kind"] == "memory.stored") {
            let authors = stored.entry(text(&event["data"]["key"])).or_default();
            authors.push(text(&event["actor"]["agent"]));
            if number(&event["data"], "revision") != authors.len() as i64 {
                self.complain(format!("{task}: a revision is missing before {event}"));
            }
        }
        for (key, authors) in stored {
            let read = self.ask("memory_retrieve", json!({ "task_id": task, "key": key })).await;
            let (count, revision) = (number(&read["value"], "count"), number(&read["entry"], "revision"));
            if count != revision || count != authors.len() as i64 {
                self.complain(format!(
                    "{task}: {key} is {count} at revision {revision}, and was stored {} times",
                    authors.len()
                ));
            }
            for ledger in self.ledgers {
                let of_key =
                    |deed: &&Deed| deed.task == task && matches!(&deed.kind, Kind::Count { key: of } if *of == key);
                let fates: Vec<Fate> = ledger.deeds.iter().filter(of_key).map(|deed| deed.fate).collect();
                let unsure = fates.iter().filter(|fate| **fate == Fate::Unsure).count();
                let told: Vec<i64> = fates
                    .iter()
                    .filter_map(|fate| if let Fate::Acknowledged(revision) = fate { Some(*revision) } else { None })
                    .collect();
                let own = authors.iter().filter(|author| **author == ledger.agent).count();
                let is_own = |revision: &i64| authors.get(*revision as usize - 1) == Some(&ledger.agent);
                let is_each_one = told.iter().collect::<HashSet<_>>().len() == told.len();
                if !told.iter().all(is_own) || !is_each_one || own < told.len() || own > told.len() + unsure {
                    let agent = &ledger.agent;
                    self.complain(format!(
                        "{task}: {key}: {agent} stored it {own} times, {unsure} unsure, and was told {told:?}"
                    ));
                }
            }
        }
    }

    /// Each step, message and revision has its event, in its order.
    fn check_events(&self, task: &str, log: &[Value], files: &Revisions) {
        let numbers = |kind: &'static str, name: &'static str| {
            log.iter().filter(move |event| event["kind"] == kind).map(move |event| number(&event["data"], name))
        };
        self.check_numbers(task, "the event of step", numbers("step.logged", "number"));
        self.check_numbers(task, "the event of message", numbers("message.sent", "number"));
        for (path, contents) in files {
            let written = log.iter().filter(|event| event["kind"] == "file.written" && event["data"]["path"] == **path);
            let revisions: Vec<i64> = written.map(|event| number(&event["data"], "revision")).collect();
            self.check_numbers(task, &format!("the event of {path}"), revisions.iter().copied());
            if revisions.len() != contents.len() {
                self.complain(format!(
                    "{task}: {path} has {} revisions and {} events",
                    contents.len(),
                    revisions.len()
                ));
            }
        }
    }

    /// No two claims that exclude each other were held at the same time, and whatever was written was written by whoever
    /// held it then.
    fn check_claims(&self, task: &str, log: &[Value], files: &Revisions) {
        let told = || self.ledgers.iter().flat_map(|ledger| &ledger.claims).filter(|held| held.task == task);
        let (mut live, mut given): (Vec<Live>, BTreeSet<i64>) = Default::default();
        for event in log {
            let data = &event["data"];
            match event["kind"].as_str().unwrap_or_default() {
                "claim.taken" => {
                    let renewed = told().filter(|held| held.token == number(data, "token")).map(|held| held.until);
                    let new = Live::new(data, renewed.max());
                    if !given.insert(new.token) {
                        self.complain(format!("{task}: a token was given twice: {event}"));
                    }
                    for other in live.extract_if(.., |other| other.excludes(&new)) {
                        if other.until > moment(event, "at") {
                            self.complain(format!("{task}: {other:?} was held when this was granted: {event}"));
                        }
                    }
                    live.push(new);
                }
                "claim.released" | "claim.forced" => live.retain(|held| held.token != number(data, "token")),
                "file.written" => {
                    let (path, revision) = (text(&data["path"]), number(data, "revision"));
                    let Some(content) = files.get(&path).and_then(|contents| contents.get(revision as usize - 1))
                    else {
                        continue; // a complaint was made already
                    };
                    if path.starts_with("guarded/") {
                        let token: i64 = content.split(' ').next().unwrap_or_default().parse().unwrap_or(-1);
                        self.check_write(task, event, &path, token, &live);
                    }
                }
                _ => {}
            }
        }
        let taken: HashMap<i64, String> = (log.iter().filter(|event| event["kind"] == "claim.taken"))
            .map(|event| (number(&event["data"], "token"), text(&event["actor"]["agent"])))
            .collect();
        for ledger in self.ledgers {
            for held in ledger.claims.iter().filter(|held| held.task == task) {
                if taken.get(&held.token) != Some(&ledger.agent) {
                    self.complain(format!("{} was told of {held:?}, which was never granted to it", ledger.agent));
                }
            }
        }
        let unsure: usize = self.ledgers.iter().map(|ledger| ledger.claims_unsure).sum();
        if given.len() > told().count() + unsure {
            self.complain(format!(
                "{task}: {} claims were granted, {} acknowledged, {unsure} unsure",
                given.len(),
                told().count()
            ));
        }
    }

    fn check_write(&self, task: &str, event: &Value, path: &str, token: i64, live: &[Live]) {
        if token > 0 && !live.iter().any(|held| held.token == token && held.covers(path) && !held.is_shared) {
            self.complain(format!("{task}: written under the token {token}, which was not live: {event}"));
        }
        let at = moment(event, "at");
        if let Some(other) = live.iter().find(|held| held.token != token && held.covers(path) && held.until > at) {
            self.complain(format!("{task}: written although {other:?} was live: {event}"));
        }
    }
}

/// A claim that was granted and not released.
#[derive(Debug)]
struct Live {
    token: i64,
    pattern: String,
    is_shared: bool,
    until: i64,
}

impl Live {
    /// As an event has it, and until when its holder was told that it lasts.
    fn new(data: &Value, told: Option<i64>) -> Live {
        let until = number(data, "until").max(told.unwrap_or_default());
        Live { token: number(data, "token"), pattern: text(&data["pattern"]), is_shared: data["shared"] == true, until }
    }

    /// The only glob is that of all.
    fn covers(&self, path: &str) -> bool {
        self.pattern == path || self.pattern == "guarded/*"
    }

    fn excludes(&self, other: &Live) -> bool {
        (!self.is_shared || !other.is_shared) && (self.covers(&other.pattern) || other.covers(&self.pattern))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
