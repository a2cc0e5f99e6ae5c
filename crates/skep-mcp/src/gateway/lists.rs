//! The lists of the servers behind a gateway: read to their end, kept for a while, and merged.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use tokio::time::{Instant, timeout};

use super::{
    Member, SEPARATOR,
    cursor::{self, Place},
};
use crate::{
    message::ErrorObject,
    server::{
        Call, Change, Members, Peer, code,
        headers::{self, HeaderArgument},
    },
};

/// Pages of one server's list; what comes after is left out.
const PAGES_MAX: usize = 100;
/// Items of one server's list.
const ITEMS_MAX: usize = 10_000;
/// Items of one page of a merged list. Many clients read only the first.
const PAGE_ITEMS_MAX: usize = 1000;
/// How long one server may take to give a list, before the others are shown without it.
const LIST_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a list is kept whose server does not say: a change is told by most, and noticed after this by all.
const KEPT: Duration = Duration::from_secs(10);
/// The longest time that a list is kept, whatever its server says.
const KEPT_MAX: Duration = Duration::from_secs(300);
/// After a server has failed to give a list it is not asked for another one so long.
const FAILED_KEPT: Duration = Duration::from_secs(2);

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Kind {
    fn method(self) -> &'static str {
        match self {
            Kind::Tools => "tools/list",
            Kind::Prompts => "prompts/list",
            Kind::Resources => "resources/list",
            Kind::Templates => "resources/templates/list",
        }
    }

    /// The member of the result that has the items.
    fn items(self) -> &'static str {
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
    fn has_prefix(self) -> bool {
        matches!(self, Kind::Tools | Kind::Prompts)
    }
}

/// One whole list of one server.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Keys and items, in the order of the keys.
    items: Vec<(String, Members<'static>)>,
    ttl_ms: u64,
    is_public: bool,
    header_arguments: HashMap<String, Vec<HeaderArgument>>,
}

impl List {
    /// Whether this list has the resource, or a template that it fits.
    pub(super) fn has_uri(&self, kind: Kind, uri: &str) -> bool {
        self.items.iter().any(|(key, _)| match kind {
            Kind::Templates => fits(key, uri),
            _ => key == uri,
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
pub(super) struct Lists {
    known: Mutex<HashMap<Kind, Known>>,
    /// One question at a time: whoever comes meanwhile gets the same answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    list: Arc<List>,
    until: Instant,
}

impl Lists {
    fn known(&self, kind: Kind) -> Option<Arc<List>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&kind).filter(|known| known.until > Instant::now()).map(|known| Arc::clone(&known.list))
    }

    fn keep(&self, kind: Kind, list: &Arc<List>, kept: Duration) {
        let known = Known { list: Arc::clone(list), until: Instant::now() + kept };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, known);
    }

    /// What has changed must be asked again.
    pub(super) fn forget(&self, change: &Change) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Tools => drop(known.remove(&Kind::Tools)),
            Change::Prompts => drop(known.remove(&Kind::Prompts)),
            Change::Resources => known.retain(|kind, _| !matches!(kind, Kind::Resources | Kind::Templates)),
            Change::Resource(_) => {}
        }
    }

    /// Whether the server says of a tool that it changes nothing, or nothing more when it is called again; as far as the
    /// list was ever read.
    pub(super) fn may_repeat(&self, tool: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let list = known.get(&Kind::Tools).map(|known| Arc::clone(&known.list));
        drop(known);
        let item = list.as_ref().and_then(|list| list.items.iter().find(|(name, _)| name == tool));
        let annotations = item.and_then(|(_, item)| item.get("annotations")).and_then(Members::parse);
        annotations.is_some_and(|annotations| {
            ["readOnlyHint", "idempotentHint"].iter().any(|hint| annotations.read(hint) == Some(true))
        })
    }

    /// The marked arguments of a tool, by the server's own name, as far as the list was ever read.
    pub(super) fn header_arguments(&self, tool: &str) -> Vec<HeaderArgument> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&Kind::Tools).and_then(|known| known.list.header_arguments.get(tool)).cloned().unwrap_or_default()
    }
}

/// The lists of all servers that give one, in the order of the servers.
pub(super) async fn all(
    members: &[Arc<Member>],
    kind: Kind,
    call: &Call,
    peer: &Peer,
) -> Vec<(Arc<Member>, Arc<List>)> {
    let asked =
        members.iter().map(|member| async move { Some((Arc::clone(member), one(member, kind, call, peer).await?)) });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn one(member: &Arc<Member>, kind: Kind, call: &Call, peer: &Peer) -> Option<Arc<List>> {
    if let Some(list) = member.lists.known(kind) {
        return Some(list);
    }
    let asking = async {
        let _one_at_a_time = member.lists.asking.lock().await;
        if let Some(list) = member.lists.known(kind) {
            return Ok(list);
        }
        read(member, kind, call, peer).await.map(Arc::new)
    };
    let result = timeout(LIST_TIME_MAX, asking).await;
    let (list, kept) = match result {
        Ok(Ok(list)) => {
            let kept = if list.ttl_ms == 0 { KEPT } else { Duration::from_millis(list.ttl_ms).min(KEPT_MAX) };
            (list, kept)
        }
        // It has none of these.
        Ok(Err(error)) if error.code == code::METHOD_NOT_FOUND => (Arc::default(), KEPT_MAX),
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.message,
                _ => format!("no answer within {}s", LIST_TIME_MAX.as_secs()),
            };
            tracing::warn!(server = member.origin.name, method = kind.method(), why, "a list is missing");
            (Arc::default(), FAILED_KEPT)
        }
    };
    member.lists.keep(kind, &list, kept);
    Some(list)
}

/// All pages of a list.
async fn read(member: &Member, kind: Kind, call: &Call, peer: &Peer) -> Result<List, ErrorObject> {
    let mut list = List { is_public: true, ttl_ms: u64::MAX, ..List::default() };
    let mut cursor: Option<Box<RawValue>> = None;
    for _ in 0..PAGES_MAX {
        let mut params = Members::default();
        if let Some(cursor) = cursor.take() {
            params.set("cursor", cursor);
        }
        let call = Call {
            method: kind.method().to_owned(),
            params,
            caller: Arc::clone(&call.caller),
            cancel: call.cancel.child_token(),
        };
        let page = Arc::clone(&member.origin.service).handle(call, peer.clone()).await?;
        let no_list =
            || ErrorObject::new(code::INTERNAL_ERROR, format!("what it lists is no list of {}", kind.items()));
        let page = Members::parse(&page).ok_or_else(no_list)?;
        let items: Vec<Members<'_>> = page.read(kind.items()).ok_or_else(no_list)?;
        let keyed = |item: Members<'_>| Some((item.read::<String>(kind.key())?, item.into_owned()));
        list.items.extend(items.into_iter().filter_map(keyed));
        list.ttl_ms = list.ttl_ms.min(page.read("ttlMs").unwrap_or(0));
        list.is_public &= page.read::<String>("cacheScope").as_deref() == Some("public");
        cursor = page.get("nextCursor").filter(|cursor| cursor.get() != "null").map(ToOwned::to_owned);
        if cursor.is_none() || list.items.len() >= ITEMS_MAX {
            break;
        }
    }
    list.items.truncate(ITEMS_MAX);
    list.items.sort_by(|(a, _), (b, _)| a.cmp(b));
    list.items.dedup_by(|(b, _), (a, _)| a == b);
    if kind == Kind::Tools {
        list.items.retain(|(name, _)| (member.origin.allows)(name));
        for (name, tool) in &list.items {
            let marked = tool.get("inputSchema").filter(|schema| schema.get().contains("x-mcp-header"));
            if let Some(schema) = marked.and_then(|schema| serde_json::from_str::<Value>(schema.get()).ok()) {
                list.header_arguments.insert(name.clone(), headers::header_arguments(&schema));
            }
        }
    }
    Ok(list)
}

/// One page of the merged list, the items that come after a place.
pub(super) fn merge(kind: Kind, all: &[(Arc<Member>, Arc<List>)], after: Option<Place>) -> Members<'static> {
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let (mut seen, mut last, mut next) = (HashSet::new(), None, None);
    'servers: for (member, list) in all {
        let server = &member.origin.name;
        for (key, item) in &list.items {
            // Of two with one URI the first counts, on whatever page it was.
            let is_first = kind.has_prefix() || seen.insert(key.as_str());
            let is_before = after.as_ref().is_some_and(|(s, k)| (server, key) <= (s, k));
            if !is_first || is_before {
                continue;
            }
            if items.len() == PAGE_ITEMS_MAX {
                next = last.take();
                break 'servers;
            }
            items.push(named(kind, server, key, item));
            last = Some((server.clone(), key.clone()));
        }
    }
    let mut page = Members::default();
    page.put(kind.items(), items);
    if let Some(next) = next {
        page.put("nextCursor", cursor::write(&next));
    }
    let lists = || all.iter().map(|(_, list)| list).filter(|list| !list.items.is_empty());
    page.put("ttlMs", lists().map(|list| list.ttl_ms).min().unwrap_or(0));
    page.put("cacheScope", if lists().all(|list| list.is_public) { "public" } else { "private" });
    page
}

fn named(kind: Kind, server: &str, key: &str, item: &Members<'_>) -> Box<RawValue> {
    let mut item = item.clone();
    if kind.has_prefix() && !server.is_empty() {
        item.put("name", format!("{server}{SEPARATOR}{key}"));
    }
    to_raw(&item)
}

fn to_raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
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
