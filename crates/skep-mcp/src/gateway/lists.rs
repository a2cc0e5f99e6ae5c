//! What one server lists: read to its end, and kept for a while.
//!
//! Whoever speaks with a server keeps its lists here, and all who want to know what it has read the same ones. How a page is
//! asked for is theirs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, value::RawValue};
use tokio::time::Instant;

use crate::server::{
    Change, Members,
    headers::{self, HeaderArgument},
};

/// Pages of one list; what comes after is left out.
const PAGES_MAX: usize = 1000;
/// Items of one list.
const ITEMS_MAX: usize = 20_000;
/// How long a list is kept whose server neither says for how long nor tells of changes.
const KEPT: Duration = Duration::from_secs(10);
/// The longest time that a list is kept: a server may forget to tell of a change, and the word of it may be lost.
const KEPT_MAX: Duration = Duration::from_secs(300);

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Kind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

/// How many kinds there are.
const KINDS: usize = Kind::Templates as usize + 1;

impl Kind {
    /// The method that gives a page.
    pub fn method(self) -> &'static str {
        match self {
            Kind::Tools => "tools/list",
            Kind::Prompts => "prompts/list",
            Kind::Resources => "resources/list",
            Kind::Templates => "resources/templates/list",
        }
    }

    /// Whether a server with these capabilities tells when the list has changed.
    pub fn is_announced(self, capabilities: &Value) -> bool {
        let area = match self {
            Kind::Tools => "tools",
            Kind::Prompts => "prompts",
            Kind::Resources | Kind::Templates => "resources",
        };
        capabilities[area]["listChanged"] == true
    }

    /// What tells that the list has changed.
    pub fn change(self) -> Change {
        match self {
            Kind::Tools => Change::Tools,
            Kind::Prompts => Change::Prompts,
            Kind::Resources | Kind::Templates => Change::Resources,
        }
    }

    /// The member of the result that has the items.
    pub(super) fn items(self) -> &'static str {
        match self {
            Kind::Tools => "tools",
            Kind::Prompts => "prompts",
            Kind::Resources => "resources",
            Kind::Templates => "resourceTemplates",
        }
    }

    /// The member of an item that names it.
    fn key(self) -> &'static str {
        match self {
            Kind::Tools | Kind::Prompts => "name",
            Kind::Resources => "uri",
            Kind::Templates => "uriTemplate",
        }
    }

    /// Whether items are called by the names of their servers, too.
    pub(super) fn has_prefix(self) -> bool {
        matches!(self, Kind::Tools | Kind::Prompts)
    }
}

/// One whole list of one server.
#[derive(Debug, Default)]
pub struct List {
    /// Keys and items, in the order of the keys.
    items: Vec<(String, Members<'static>)>,
    pub(super) ttl_ms: u64,
    pub(super) is_public: bool,
    header_arguments: HashMap<String, Vec<HeaderArgument>>,
}

impl List {
    /// Names or URIs, and what the server wrote under them, in the order of the names.
    pub fn items(&self) -> impl ExactSizeIterator<Item = (&str, &Members<'static>)> {
        self.items.iter().map(|(key, item)| (&**key, item))
    }

    /// Whether this list has the resource, or a template that it fits.
    pub(super) fn has_uri(&self, kind: Kind, uri: &str) -> bool {
        self.items.iter().any(|(key, _)| match kind {
            Kind::Templates => fits(key, uri),
            _ => key == uri,
        })
    }

    /// Whether the server says of a tool that it changes nothing, or nothing more when it is called again.
    fn may_repeat(&self, tool: &str) -> bool {
        let item = self.items.iter().find(|(name, _)| name == tool);
        let annotations = item.and_then(|(_, item)| item.get("annotations")).and_then(Members::parse);
        annotations.is_some_and(|annotations| {
            ["readOnlyHint", "idempotentHint"].iter().any(|hint| annotations.read(hint) == Some(true))
        })
    }
}

/// Whether a URI may be one of a template (RFC 6570): what stands between its expressions must occur in this order, at
/// the ends exactly. The server decides the rest.
fn fits(template: &str, uri: &str) -> bool {
    if template == uri {
        return true; // a completion names the template itself
    }
    let (mut literals, mut rest) = (Vec::new(), template);
    while let Some((literal, after)) = rest.split_once('{') {
        literals.push(literal);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    let (Some(middle), Some(mut uri)) = (literals.get(1..), literals.first().and_then(|first| uri.strip_prefix(first)))
    else {
        return false;
    };
    for literal in middle {
        match uri.find(literal) {
            Some(at) => uri = &uri[at + literal.len()..],
            None => return false,
        }
    }
    uri.ends_with(rest)
}

/// The lists of one server that are known.
#[derive(Default)]
pub struct Lists {
    known: Mutex<Known>,
    /// Each list is read once at a time: whoever comes meanwhile gets the same. One that is slow holds no other up.
    reading: [tokio::sync::Mutex<()>; KINDS],
}

#[derive(Default)]
struct Known {
    lists: BTreeMap<Kind, Kept>,
    /// Counts the changes: a list that was read meanwhile is not kept.
    changes: u64,
}

struct Kept {
    list: Arc<List>,
    since: Instant,
    until: Instant,
}

/// A list that is wanted.
pub enum Wanted<'a> {
    /// It is known.
    Known(Arc<List>),
    /// It has to be read.
    Unknown(Reading<'a>),
}

impl Lists {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list that need not be read again yet.
    pub fn fresh(&self, kind: Kind) -> Option<Arc<List>> {
        let known = self.known();
        known.lists.get(&kind).filter(|kept| kept.until > Instant::now()).map(|kept| Arc::clone(&kept.list))
    }

    /// A list as it was last read, if that was not longer ago: for whoever knows that it cannot have changed since.
    pub fn last(&self, kind: Kind, age_max: Duration) -> Option<Arc<List>> {
        let known = self.known();
        known.lists.get(&kind).filter(|kept| kept.since.elapsed() < age_max).map(|kept| Arc::clone(&kept.list))
    }

    /// A list, or the right to read it, which one has at a time.
    pub async fn want(&self, kind: Kind) -> Wanted<'_> {
        if let Some(list) = self.fresh(kind) {
            return Wanted::Known(list);
        }
        let alone = self.reading[kind as usize].lock().await;
        match self.fresh(kind) {
            Some(list) => Wanted::Known(list),
            None => Wanted::Unknown(Reading {
                lists: self,
                kind,
                list: List { is_public: true, ttl_ms: u64::MAX, ..List::default() },
                next: Some(Members::default()),
                pages: 0,
                changes: 0,
                _alone: alone,
            }),
        }
    }

    /// What has changed must be read again.
    pub fn forget(&self, change: &Change) {
        let mut known = self.known();
        known.changes += 1;
        known.lists.retain(|kind, _| match change {
            Change::Tools => *kind != Kind::Tools,
            Change::Prompts => *kind != Kind::Prompts,
            Change::Resources => !matches!(kind, Kind::Resources | Kind::Templates),
            Change::Resource(_) => true,
        });
    }

    /// Anything may have changed.
    pub fn forget_all(&self) {
        [Change::Tools, Change::Prompts, Change::Resources].iter().for_each(|change| self.forget(change));
    }

    /// Whether the server says of a tool that it changes nothing, or nothing more when it is called again; as far as the
    /// list was ever read.
    pub fn may_repeat(&self, tool: &str) -> bool {
        let list = self.known().lists.get(&Kind::Tools).map(|kept| Arc::clone(&kept.list));
        list.is_some_and(|list| list.may_repeat(tool))
    }

    /// The arguments of a tool that are repeated in headers, by the server's own name, as far as the list was ever read.
    pub fn header_arguments(&self, tool: &str) -> Vec<HeaderArgument> {
        let known = self.known();
        let kept = known.lists.get(&Kind::Tools);
        kept.and_then(|kept| kept.list.header_arguments.get(tool)).cloned().unwrap_or_default()
    }
}

/// A list that is being read, by one page after the other.
pub struct Reading<'a> {
    lists: &'a Lists,
    kind: Kind,
    list: List,
    /// Parameters of the next page.
    next: Option<Members<'static>>,
    pages: usize,
    /// The changes there were before the first page.
    changes: u64,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Reading<'_> {
    /// The parameters with which the next page is asked for; `None` if there is no other. What changes before the first is
    /// asked for does no harm.
    pub fn next_page(&mut self) -> Option<Members<'static>> {
        if self.pages == 0 {
            self.changes = self.lists.known().changes;
        }
        self.pages += 1;
        let is_too_long = self.pages > PAGES_MAX || self.list.items.len() >= ITEMS_MAX;
        self.next.take().filter(|_| !is_too_long)
    }

    /// Take a page.
    ///
    /// # Errors
    ///
    /// What is wrong with it; the list is of no use then.
    pub fn add(&mut self, page: &RawValue) -> Result<(), String> {
        let (list, kind) = (&mut self.list, self.kind);
        let no_list = || format!("its answer to {} has no list of {}", kind.method(), kind.items());
        let page = Members::parse(page).ok_or_else(no_list)?;
        let items: Vec<Members<'_>> = page.read(kind.items()).ok_or_else(no_list)?;
        let keyed = |item: Members<'_>| Some((item.read::<String>(kind.key())?, item.into_owned()));
        list.items.extend(items.into_iter().filter_map(keyed));
        list.ttl_ms = list.ttl_ms.min(page.read::<f64>("ttlMs").map_or(0, |millis| millis as u64));
        list.is_public &= page.read::<String>("cacheScope").as_deref() == Some("public");
        self.next = page.get("nextCursor").filter(|cursor| cursor.get() != "null").map(|cursor| {
            let mut params = Members::default();
            params.set("cursor", cursor.to_owned());
            params
        });
        Ok(())
    }

    /// The server knows no such list.
    pub fn end(&mut self) {
        self.next = None;
    }

    /// Leave out what is not wanted.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&str) -> bool) {
        self.list.items.retain(|(key, _)| is_wanted(key));
    }

    /// It is whole: keep it for as long as the server said, or until it changes, if the server tells that.
    pub fn keep(mut self, is_announced: bool) -> Arc<List> {
        let list = &mut self.list;
        list.items.truncate(ITEMS_MAX);
        list.items.sort_by(|(a, _), (b, _)| a.cmp(b));
        list.items.dedup_by(|(b, _), (a, _)| a == b);
        if self.kind == Kind::Tools {
            for (name, tool) in &list.items {
                let marked = tool.get("inputSchema").filter(|schema| schema.get().contains("x-mcp-header"));
                if let Some(schema) = marked.and_then(|schema| serde_json::from_str::<Value>(schema.get()).ok()) {
                    list.header_arguments.insert(name.clone(), headers::header_arguments(&schema));
                }
            }
        }
        let kept = match list.ttl_ms {
            0 if is_announced => KEPT_MAX,
            0 => KEPT,
            millis => Duration::from_millis(millis).min(KEPT_MAX),
        };
        let list = Arc::new(self.list);
        let mut known = self.lists.known();
        if known.changes == self.changes {
            let since = Instant::now();
            known.lists.insert(self.kind, Kept { list: Arc::clone(&list), since, until: since + kept });
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_fits_a_template_by_what_stands_between_its_expressions() {
        for (template, uri, fit) in [
            ("test://template/{id}/data", "test://template/123/data", true),
            ("test://template/{id}/data", "test://template/123/date", false),
            ("test://template/{id}/data", "test://other/123/data", false),
            ("file:///{+path}", "file:///a/b/c", true),
            ("a://{x}-{y}", "a://1-2", true),
            ("a://{x}-{y}", "a://12", false),
            ("a://{x}", "a://{x}", true),
            ("a://fixed", "a://fixed", true),
            ("a://fixed", "a://other", false),
            ("a://{broken", "a://", true),
        ] {
            assert_eq!(fits(template, uri), fit, "{template} {uri}");
        }
    }
}
