//! The lists of all servers behind a gateway as one, in pages of its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::timeout;

use super::{
    Member, NAME_BYTES_MAX,
    cursor::{self, Place},
    lists::{Kind, List},
    prefixed,
};
use crate::server::{Caller, Members};

/// Items of one page of a merged list. Many clients read only the first.
const PAGE_ITEMS_MAX: usize = 1000;
/// How long a server may take to give a list, before the others are shown without it. Long enough for a server that runs, and
/// for a program that only has to start; not for one that has to be fetched.
pub const LIST_TIME_MAX: Duration = Duration::from_millis(1500);

/// The lists of all servers.
pub(super) struct All {
    /// Those that there are, in the order of the servers.
    pub(super) lists: Vec<(Arc<Member>, Arc<List>)>,
    /// No server was too slow.
    pub(super) is_whole: bool,
}

/// The lists of all servers that give one within this time, or have given one before.
pub(super) async fn all(members: &[Arc<Member>], kind: Kind, caller: &Arc<Caller>, time_max: Duration) -> All {
    let listed = members.iter().map(|member| async move {
        let listing = Arc::clone(&member.origin.service).list(kind, Arc::clone(caller));
        let server = &member.origin.name;
        match timeout(time_max, listing).await {
            Ok(Ok(list)) => (Some(list), true),
            Ok(Err(error)) => {
                tracing::warn!(server, method = kind.method(), why = error.message, "a list is missing");
                (None, true)
            }
            Err(_) => {
                tracing::info!(
                    server,
                    method = kind.method(),
                    "a list has not come yet; the others are shown without it"
                );
                (member.origin.service.last_list(kind), false)
            }
        }
    });
    let listed = join_all(listed).await;
    let is_whole = listed.iter().all(|(_, is_in_time)| *is_in_time);
    let lists = members.iter().zip(listed).filter_map(|(member, (list, _))| Some((Arc::clone(member), list?)));
    All { lists: lists.collect(), is_whole }
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
            let Some(item) = named(kind, server, key, item) else {
                tracing::warn!(
                    server,
                    name = key,
                    "left out: with its prefix, its name has more than {NAME_BYTES_MAX} bytes"
                );
                continue;
            };
            items.push(item);
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

/// An item under its name here; `None` if that is too long.
fn named(kind: Kind, server: &str, key: &str, item: &Members<'_>) -> Option<Box<RawValue>> {
    if !kind.has_prefix() {
        return Some(to_raw(item));
    }
    let name = prefixed(server, key)?;
    if server.is_empty() {
        return Some(to_raw(item));
    }
    let mut item = item.clone();
    item.put("name", name);
    Some(to_raw(&item))
}

fn to_raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
