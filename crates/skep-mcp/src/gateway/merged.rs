//! The lists of all servers behind a gateway as one, in pages of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::{
    Member, SEPARATOR,
    cursor::{self, Place},
    lists::{Kind, List},
};
use crate::server::{Caller, Members};

/// Items of one page of a merged list. Many clients read only the first.
const PAGE_ITEMS_MAX: usize = 1000;
/// How long one server may take to give a list, before the others are shown without it.
const LIST_TIME_MAX: Duration = Duration::from_secs(10);

/// The lists of all servers that give one, in the order of the servers.
pub(super) async fn all(members: &[Arc<Member>], kind: Kind, caller: &Arc<Caller>) -> Vec<(Arc<Member>, Arc<List>)> {
    let listed = members.iter().map(|member| async move {
        let listing = Arc::clone(&member.origin.service).list(kind, Arc::clone(caller));
        let why = match timeout(LIST_TIME_MAX, listing).await {
            Ok(Ok(list)) => return Some((Arc::clone(member), list)),
            Ok(Err(error)) => error.message,
            Err(_) => format!("no answer within {}s", LIST_TIME_MAX.as_secs()),
        };
        tracing::warn!(server = member.origin.name, method = kind.method(), why, "a list is missing");
        None
    });
    join_all(listed).await.into_iter().flatten().collect()
}

/// One page of the merged list, the items that come after a place.
pub(super) fn page(kind: Kind, all: &[(Arc<Member>, Arc<List>)], after: Option<Place>) -> Members<'static> {
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let (mut seen, mut last, mut next) = (HashSet::new(), None, None);
    'servers: for (member, list) in all {
        let server = &member.origin.name;
        for (key, item) in list.items() {
            // Of two with one URI the first counts, on whatever page it was.
            let is_first = kind.has_prefix() || seen.insert(key);
            let is_before = after.as_ref().is_some_and(|(s, k)| (server.as_str(), key) <= (s.as_str(), k.as_str()));
            if !is_first || is_before {
                continue;
            }
            if items.len() == PAGE_ITEMS_MAX {
                next = last.take();
                break 'servers;
            }
            items.push(named(kind, server, key, item));
            last = Some((server.clone(), key.to_owned()));
        }
    }
    let mut page = Members::default();
    page.put(kind.items(), items);
    if let Some(next) = next {
        page.put("nextCursor", cursor::write(&next));
    }
    let lists = || all.iter().map(|(_, list)| list).filter(|list| list.items().len() > 0);
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
