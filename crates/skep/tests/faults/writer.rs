//! Those who write: what each has done, and what it was told of that.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Answer, Client},
    cluster::{HUBS, PATIENCE, WRITERS, lock, writer},
};

/// The workspaces that all write in.
pub(crate) const TASKS: [&str; 2] = ["red", "blue"];
/// Entries of the memory that all count up.
const COUNTERS: usize = 3;
/// Files to which all append lines, in turns, and lines of each.
const JOURNAL_LINES_MAX: usize = 60;
/// Files that are written by whoever has claimed them.
const GUARDED: usize = 3;
/// Seconds for which they claim them.
const TTL_S_MAX: u32 = 4;
/// What makes a line long enough that a file is soon worth keeping in Redis.
const FILLER: &str = "a line that makes the file longer";
/// How far a caller's clock and the hubs' may be apart, for whoever says that a claim was lost too early.
const CLOCKS_APART: Duration = Duration::from_secs(3);

/// What was done, and under which name it must be found.
#[derive(Debug)]
pub(crate) enum Kind {
    Step,
    Message,
    /// An entry of the memory was counted up.
    Count {
        key: String,
    },
    /// A line was appended.
    Line {
        path: String,
    },
    /// A claimed file was written under a token; 0: under none.
    Guarded {
        path: String,
        token: i64,
    },
}

/// What its author knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there, with this number or revision; 0 if the author was not told which.
    Acknowledged(i64),
    /// It is not there.
    Refused,
    /// It is there once or not at all.
    Unsure,
}

#[derive(Debug)]
pub(crate) struct Deed {
    pub(crate) task: &'static str,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) fate: Fate,
}

/// A claim that was granted.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) task: &'static str,
    pub(crate) pattern: String,
    pub(crate) token: i64,
    /// When it is over by the last answer, in microseconds.
    pub(crate) until: i64,
}

/// All that one writer has done.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) agent: String,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) claims: Vec<Held>,
    /// Requests for claims whose answer was lost.
    pub(crate) claims_unsure: usize,
}

/// What the writers know together: the newest revision of each file and entry that somebody was told of.
#[derive(Default)]
pub(crate) struct Newest {
    revisions: Mutex<HashMap<(&'static str, String), i64>>,
    journals: Mutex<HashMap<&'static str, usize>>,
}

impl Newest {
    fn of(&self, task: &'static str, name: &str) -> i64 {
        lock(&self.revisions).get(&(task, name.to_owned())).copied().unwrap_or_default()
    }

    fn told(&self, task: &'static str, name: &str, revision: i64) {
        let mut revisions = lock(&self.revisions);
        let newest = revisions.entry((task, name.to_owned())).or_default();
        *newest = revision.max(*newest);
    }
}

pub(crate) struct Writer {
    client: Client,
    rng: fastrand::Rng,
    newest: Arc<Newest>,
    ledger: Ledger,
    count: usize,
    /// By task: the number up to which its messages are acknowledged.
    read_up_to: HashMap<&'static str, i64>,
}

impl Writer {
    pub(crate) fn new(agent: String, client: Client, rng: fastrand::Rng, newest: Arc<Newest>) -> Writer {
        let ledger = Ledger { agent, ..Ledger::default() };
        Writer { client, rng, newest, ledger, count: 0, read_up_to: HashMap::new() }
    }

    /// Write until it is time to stop, and then once more, so that it is known that everybody can.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Ledger {
        for task in TASKS {
            self.until_done("join_collab", json!({ "task_id": task })).await;
        }
        while !stop.is_cancelled() {
            let task = TASKS[self.rng.usize(..TASKS.len())];
            match self.rng.u32(..100) {
                0..30 => self.log_step(task).await,
                30..42 => self.send_message(task).await,
                42..46 => self.read_messages(task).await,
                46..64 => self.count_up(task).await,
                64..82 => self.append_line(task).await,
                _ => self.hold_a_claim(task).await,
            }
        }
        for task in TASKS {
            self.send_message(task).await;
        }
        self.ledger
    }

    fn id(&mut self) -> String {
        self.count += 1;
        format!("{}.{}", self.ledger.agent, self.count)
    }

    fn done(&mut self, task: &'static str, id: String, kind: Kind, fate: Fate) {
        self.ledger.deeds.push(Deed { task, id, kind, fate });
    }

    fn complain(&self, what: &str, about: impl std::fmt::Debug) {
        self.client.cluster.notes.complain(format!("{}: {what}: {about:?}", self.ledger.agent));
    }

    /// Whatever hub is asked, a call can be made again and again until it is done.
    async fn until_done(&mut self, tool: &'static str, arguments: Value) -> Option<Value> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match self.client.call(tool, arguments.clone()).await {
                Answer::Done(said) => return Some(said),
                Answer::Unavailable | Answer::Unsure => {}
                other => {
                    self.complain(tool, other);
                    return None;
                }
            }
        }
        self.complain("nobody does it", tool);
        None
    }

    /// Nothing tells two steps apart, so a step whose answer was lost is not logged again.
    async fn log_step(&mut self, task: &'static str) {
        let id = self.id();
        let fate = match self.client.call("log_step", json!({ "task_id": task, "message": id })).await {
            Answer::Done(said) => Fate::Acknowledged(number(&said, "sequence")),
            Answer::Unavailable => Fate::Refused,
            Answer::Unsure => Fate::Unsure,
            other => return self.complain("log_step", other),
        };
        self.done(task, id, Kind::Step, fate);
    }

    async fn send_message(&mut self, task: &'static str) {
        let id = self.id();
        let mut message = json!({ "task_id": task, "body": { "id": id }, "idempotency_key": id });
        if self.rng.bool() {
            message["to"] = writer(self.rng.usize(..WRITERS)).0.into();
        }
        let Some(said) = self.until_done("send_message", message).await else { return };
        self.done(task, id, Kind::Message, Fate::Acknowledged(number(&said, "number")));
    }

    async fn read_messages(&mut self, task: &'static str) {
        let Answer::Done(said) = self.client.call("read_messages", json!({ "task_id": task, "limit": 100 })).await
        else {
            return;
        };
        let numbers: Vec<i64> = list(&said, "messages").iter().map(|message| number(message, "number")).collect();
        let read = self.read_up_to.get(task).copied().unwrap_or_default();
        if !numbers.is_sorted_by(|a, b| a < b) || numbers.first().is_some_and(|first| *first <= read) {
            self.complain("messages come twice, or not in order", (read, &numbers));
        }
        let Some(last) = numbers.last() else { return };
        if self.until_done("ack_messages", json!({ "task_id": task, "up_to": last })).await.is_some() {
            self.read_up_to.insert(task, *last);
        }
    }

    async fn count_up(&mut self, task: &'static str) {
        let key = format!("counter/{}", self.rng.usize(..COUNTERS));
        let newest = self.newest.of(task, &key);
        let Answer::Done(read) = self.client.call("memory_retrieve", json!({ "task_id": task, "key": key })).await
        else {
            return;
        };
        let (base, count) = (number(&read["entry"], "revision"), number(&read["value"], "count"));
        if base < newest {
            self.complain("an entry was read that is older than one acknowledged before", (&key, newest, &read));
        }
        self.client.hub = self.rng.usize(..HUBS);
        let id = self.id();
        let value = json!({ "count": count + 1, "by": id });
        let entry = json!({ "task_id": task, "key": key, "value": value, "base_revision": base });
        let fate = self.with_base("memory_store", entry, |said| said["current_value"]["by"] == *id).await;
        // Another may have counted up what was counted up here.
        let fate = if fate == Fate::Acknowledged(0) { Fate::Acknowledged(base + 1) } else { fate };
        if let Fate::Acknowledged(revision) = fate {
            self.newest.told(task, &key, revision);
        }
        self.done(task, id, Kind::Count { key }, fate);
    }

    async fn append_line(&mut self, task: &'static str) {
        let journal = lock(&self.newest.journals).get(task).copied().unwrap_or_default();
        let path = format!("journal/{journal}.md");
        let newest = self.newest.of(task, &path);
        let read = match self.client.call("file_read", json!({ "task_id": task, "path": path })).await {
            Answer::Done(read) => read,
            Answer::Failed(_) if newest == 0 => json!({ "content": "" }), // there is no such file
            Answer::Unavailable | Answer::Unsure => return,
            other => return self.complain("file_read", other),
        };
        let (base, before) = (number(&read, "revision"), read["content"].as_str().unwrap_or_default());
        if base < newest {
            self.complain("a file was read that is older than one acknowledged before", (&path, newest, base));
        }
        if before.lines().count() >= JOURNAL_LINES_MAX {
            lock(&self.newest.journals).insert(task, journal + 1);
            return;
        }
        self.client.hub = self.rng.usize(..HUBS);
        let id = self.id();
        let content = format!("{before}{id} {FILLER}\n");
        let file = json!({ "task_id": task, "path": path, "content": content, "base_revision": base });
        let is_there = |said: &Value| said["content"].as_str().is_some_and(|now| ids(now).any(|there| there == id));
        let fate = match self.with_base("file_write", file, is_there).await {
            // Lines are never taken away, so a line that is not there was not written.
            Fate::Unsure => Fate::Refused,
            fate => fate,
        };
        if let Fate::Acknowledged(revision) = fate {
            self.newest.told(task, &path, revision);
        }
        self.done(task, id, Kind::Line { path }, fate);
    }

    /// A change that says what it is based on is made again, as it was, until it is known what became of it.
    /// `Acknowledged(0)` if somebody has seen it there, `Unsure` if it is not there any more.
    async fn with_base(&mut self, tool: &'static str, arguments: Value, is_there: impl Fn(&Value) -> bool) -> Fate {
        let (began, mut is_unsure) = (Instant::now(), false);
        while began.elapsed() < PATIENCE {
            match self.client.call(tool, arguments.clone()).await {
                Answer::Done(said) => return Fate::Acknowledged(number(&said, "revision")),
                Answer::Conflict(said) if is_there(&said) => return Fate::Acknowledged(0),
                Answer::Conflict(_) if is_unsure => return Fate::Unsure,
                Answer::Conflict(_) => return Fate::Refused,
                Answer::Unavailable => {}
                Answer::Unsure => is_unsure = true,
                other @ Answer::Failed(_) => {
                    self.complain(tool, other);
                    return Fate::Unsure;
                }
            }
        }
        self.complain("nobody does it", tool);
        Fate::Unsure
    }

    async fn hold_a_claim(&mut self, task: &'static str) {
        let path = format!("guarded/{}.txt", self.rng.usize(..GUARDED));
        let is_shared = self.rng.u32(..6) == 0;
        let pattern = if self.rng.u32(..5) == 0 { "guarded/*".to_owned() } else { path.clone() };
        let claim = json!({ "task_id": task, "path": pattern, "shared": is_shared, "ttl_s": self.rng.u32(1..=TTL_S_MAX),
            "wait_s": self.rng.u32(..=2) });
        let said = match self.client.call("claim_file", claim).await {
            Answer::Done(said) => said,
            Answer::Unsure => {
                self.ledger.claims_unsure += 1;
                return;
            }
            Answer::Conflict(_) | Answer::Unavailable => return,
            other => return self.complain("claim_file", other),
        };
        let mut held = Held { task, pattern, token: number(&said, "token"), until: moment(&said, "expires_at") };
        for _ in 0..self.rng.u32(1..4) {
            if self.rng.u32(..3) == 0 {
                sleep(Duration::from_millis(self.rng.u64(..600))).await;
            }
            if self.rng.bool() {
                self.client.hub = self.rng.usize(..HUBS);
            }
            match is_shared {
                false => self.write_guarded(&path, &mut held).await,
                true => self.renew(&mut held).await,
            }
        }
        let token = held.token;
        // One in four is left to its time.
        if self.rng.u32(..4) > 0 {
            self.until_done("release_file", json!({ "task_id": task, "path": held.pattern, "token": token })).await;
            self.trespass(task, &path, token).await;
        }
        self.ledger.claims.push(held);
        self.trespass(task, &path, 0).await;
    }

    async fn renew(&mut self, held: &mut Held) {
        // Never for less time than it has.
        let renew = json!({ "task_id": held.task, "token": held.token, "ttl_s": TTL_S_MAX });
        match self.client.call("renew_claim", renew).await {
            Answer::Done(said) => held.until = held.until.max(moment(&said, "expires_at")),
            Answer::Unavailable | Answer::Unsure | Answer::Conflict(_) => {}
            other => self.complain("renew_claim", other),
        }
    }

    async fn write_guarded(&mut self, path: &str, held: &mut Held) {
        if self.rng.u32(..4) == 0 {
            self.renew(held).await;
        }
        let lost_too_early = now_us() + CLOCKS_APART.as_micros() as i64;
        let (fate, said) = self.write_under(held.task, path, held.token).await;
        if fate == Fate::Refused && said["reason"] == "stale_token" && lost_too_early < held.until {
            self.complain("a claim was lost before its time", (&*held, said));
        }
    }

    /// A write with the token of a claim that is over, or without one.
    async fn trespass(&mut self, task: &'static str, path: &str, token: i64) {
        let (fate, _) = self.write_under(task, path, token).await;
        if token > 0 && matches!(fate, Fate::Acknowledged(_)) {
            self.complain("a file was written with the token of a claim that is over", (path, token, fate));
        }
    }

    async fn write_under(&mut self, task: &'static str, path: &str, token: i64) -> (Fate, Value) {
        let id = self.id();
        let mut file = json!({ "task_id": task, "path": path, "content": format!("{token} {id}\n") });
        if token > 0 {
            file["token"] = token.into();
        }
        let (fate, said) = match self.client.call("file_write", file).await {
            Answer::Done(said) => (Fate::Acknowledged(number(&said, "revision")), said),
            Answer::Conflict(said) => (Fate::Refused, said),
            Answer::Unavailable => (Fate::Refused, Value::Null),
            Answer::Unsure => (Fate::Unsure, Value::Null),
            Answer::Failed(said) => {
                self.complain("file_write", &said);
                (Fate::Unsure, said)
            }
        };
        self.done(task, id, Kind::Guarded { path: path.to_owned(), token }, fate);
        (fate, said)
    }
}

/// The names of the lines of a journal.
pub(crate) fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split(' ').next().unwrap_or_default())
}

pub(crate) fn number(said: &Value, name: &str) -> i64 {
    said[name].as_i64().unwrap_or_default()
}

pub(crate) fn list<'a>(said: &'a Value, name: &str) -> &'a [Value] {
    said[name].as_array().map_or(&[], Vec::as_slice)
}

/// A time, in microseconds.
pub(crate) fn moment(said: &Value, name: &str) -> i64 {
    let text = said[name].as_str().unwrap_or_else(|| panic!("{said} has no {name}"));
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
