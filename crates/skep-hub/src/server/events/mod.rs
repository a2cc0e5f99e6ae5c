//! Live events: `GET /api/v1/events` as an event stream (`stream`) or page by page, and `/ws` (`socket`).
//!
//! Each reader follows the event log by its numbers, so it misses nothing and has nothing twice, wherever it begins and
//! however often it comes back. What a reader takes is bounded: of what it has not read yet, [`BATCH_BYTES`] and one event
//! are in memory, and the rest is in the log. A connection that takes nothing for a while is closed like any other.

pub(super) mod socket;
mod stream;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use skep_core::{
    app::{App, EventFollower},
    db::{Db, DbError, News},
    event::{Event, EventFilter},
    limits::{Invalid, PAGE_MAX},
    policy::{Permit, Read},
    run::RunId,
    task::TaskId,
};
use skep_mcp::server::http::Fields;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    http::{Caller, Shared},
    problem::{Kind, Problem, json_response},
};
use crate::{
    api,
    events::{shown, to_json},
    hub::{
        admission::Refused,
        shares::{Shares, part},
    },
};

/// Readers of live events at once: streams, and subscriptions of sockets.
const READERS_MAX: usize = 8192;
/// Bytes of events that are read ahead for one reader, and one event more.
const BATCH_BYTES: usize = 256 << 10;
/// Events of a page, if the caller does not say how many.
const LIMIT: usize = 100;
/// Kinds of events that one reader can name.
const KINDS_MAX: usize = 64;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/api/v1/events", get(events)).route("/ws", get(socket::open))
}

/// Who reads live events, and what they read from.
pub(super) struct Live {
    app: Option<App>,
    places: Arc<Semaphore>,
    shares: Shares,
    /// Cancelled when the hub stops.
    stop: CancellationToken,
    /// Those of one principal, cancelled when it is not let in any more.
    of: Mutex<HashMap<Arc<str>, CancellationToken>>,
    /// Connections that speak WebSocket.
    sockets: TaskTracker,
}

/// The place of a reader.
struct Place {
    /// Cancelled when the reader is to end.
    ended: CancellationToken,
    _places: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Live {
    /// Readers of this store, of whom one principal may have a share. Without a store, nobody can read.
    pub(super) fn new(app: Option<App>, share: f64) -> Live {
        Live {
            app,
            places: Arc::new(Semaphore::new(READERS_MAX)),
            shares: Shares::new(part(READERS_MAX, share)),
            stop: CancellationToken::new(),
            of: Mutex::default(),
            sockets: TaskTracker::new(),
        }
    }

    /// The store that they read from.
    pub(super) fn db(&self) -> Option<&Db> {
        self.app.as_ref().map(|app| &app.db)
    }

    /// End all readers: the hub stops.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Wait until all connections are closed that speak WebSocket, after [`Live::stop`].
    pub(super) async fn stopped(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }

    /// End the readers of a principal that is not let in any more.
    pub(super) fn revoke(&self, principal: &str) {
        if let Some(readers) = self.readers().remove(principal) {
            readers.cancel();
        }
    }

    fn enter(&self, principal: &Arc<str>) -> Result<Place, Problem> {
        if self.stop.is_cancelled() {
            return Err(Refused::Draining.into());
        }
        let too_many = |count| {
            let message = format!("{count} readers follow events already; close some, or try again later");
            Problem::busy(Kind::Busy, message)
        };
        let own = self.shares.take(principal).map_err(too_many)?;
        let all = Arc::clone(&self.places).try_acquire_owned().map_err(|_| too_many(READERS_MAX))?;
        Ok(Place { ended: self.ended(principal), _places: (all, own) })
    }

    /// Cancelled when a principal's readers are to end.
    fn ended(&self, principal: &Arc<str>) -> CancellationToken {
        self.readers().entry(Arc::clone(principal)).or_insert_with(|| self.stop.child_token()).clone()
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<Arc<str>, CancellationToken>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a caller follows.
    fn follow(&self, permit: &Permit<Read>, wanted: Wanted) -> Result<EventFollower, Problem> {
        let app = self.app.as_ref().ok_or_else(|| Problem::new(Kind::Unavailable, "this hub keeps no events"))?;
        let bad = |invalid: Invalid| Problem::new(Kind::BadRequest, invalid.to_string());
        let Wanted { task, run, agent, kinds } = wanted;
        if kinds.len() > KINDS_MAX {
            return Err(Problem::new(Kind::BadRequest, format!("at most {KINDS_MAX} kinds can be named")));
        }
        let (workspace, task) = if run.is_some() { (None, task) } else { (task, None) };
        let permit = permit.within(workspace.as_deref(), agent.as_deref()).map_err(bad)?;
        let filter = EventFilter {
            run: run.map(RunId),
            task: task.map(TaskId),
            agent: agent.map(Arc::from),
            kinds,
            ..EventFilter::default()
        };
        Ok(app.follow(&permit, filter, 0))
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// With a run: of this task of the run. Without: of the workspace of this task or swarm, which has a log of its own.
    task: Option<String>,
    run: Option<String>,
    /// Those that an agent of this name caused.
    agent: Option<String>,
    /// Of every kind, if there are none.
    kinds: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(alias = "task_id")]
    task: Option<String>,
    run: Option<String>,
    #[serde(alias = "agent_id")]
    agent: Option<String>,
    /// Several, with commas between.
    kind: Option<String>,
    after: Option<i64>,
    limit: Option<usize>,
}

/// What has happened and what happens: an event stream for who accepts one, otherwise a page.
async fn events(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let permit = caller.permit::<Read>()?;
    let bad_query = |rejection: QueryRejection| {
        let expected = "?task=…&run=…&agent=…&kind=…,…&after=NUMBER&limit=COUNT";
        Problem::new(Kind::BadRequest, format!("{}; expected {expected}", rejection.body_text()))
    };
    let Query(EventsQuery { task, run, agent, kind, after, limit }) = query.map_err(bad_query)?;
    let kinds = kind.iter().flat_map(|kinds| kinds.split(',')).map(|kind| kind.trim().to_owned()).collect();
    let follower = hub.live.follow(&permit, Wanted { task, run, agent, kinds })?;
    let fields = Fields::from(&headers);
    if stream::is_wanted(&fields) {
        let after = stream::last_event_id(&fields)?.or(after);
        let place = hub.live.enter(&caller.0.principal)?;
        return stream::open(follower, place, after).await;
    }
    page(follower, after.unwrap_or(0), limit.unwrap_or(LIMIT).clamp(1, PAGE_MAX)).await
}

/// What has happened after a number.
async fn page(mut follower: EventFollower, after: i64, limit: usize) -> Result<Response, Problem> {
    follower.go_on_after(after);
    let (mut events, mut reset, mut bytes) = (Vec::new(), None, 0);
    while events.len() < limit && bytes < BATCH_BYTES {
        match follower.look().await.map_err(failed)? {
            None => break,
            Some(News::Reset { first, last }) => reset = Some(api::Reset { first, last }),
            Some(News::Events(page)) => {
                for event in page {
                    if events.len() == limit || bytes >= BATCH_BYTES {
                        follower.go_on_after(events.last().map_or(after, |last: &Arc<Event>| last.number));
                        break;
                    }
                    bytes += event.kind.data().as_str().len();
                    events.push(event);
                }
            }
        }
    }
    let shown = events.iter().map(|event| shown(event, event.task.as_ref().map(|task| task.0.as_str())));
    let answer = api::Events { events: shown.collect(), next: follower.number(), reset };
    Ok(json_response(StatusCode::OK, &answer))
}

/// The first of these events as JSON, up to [`BATCH_BYTES`] and one more. The follower goes on after the last of them.
fn batch(follower: &mut EventFollower, events: Vec<Arc<Event>>) -> Vec<(Arc<Event>, String)> {
    let (count, mut bytes, mut batch) = (events.len(), 0, Vec::new());
    for event in events {
        let json = to_json(&event, event.task.as_ref().map(|task| task.0.as_str()));
        bytes += json.len();
        batch.push((event, json));
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    if batch.len() < count
        && let Some((last, _)) = batch.last()
    {
        follower.go_on_after(last.number);
    }
    batch
}

/// The store does not answer.
fn failed(error: DbError) -> Problem {
    let message = error.to_string();
    match error {
        DbError::Closed => Refused::Draining.into(),
        error if error.may_pass() => Problem::busy(Kind::Busy, message),
        _ => Problem::new(Kind::Internal, message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_core::{Namespace, db::Limits, memory::NewEntry, policy::Actor};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_reader_has_not_taken_stays_in_the_log() {
        const EVENTS: i64 = 600;
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("hub.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        let permit: Permit = Actor::operator("local", Namespace::team("main")).permit().unwrap();
        for n in 0..EVENTS {
            let entry = NewEntry::new(format!("{n}{}", "x".repeat(500)), json!(n));
            app.store_memory(&permit, entry).await.unwrap();
        }
        let (mut follower, mut numbers) = (app.follow(&permit.to_read(), EventFilter::default(), 0), Vec::new());
        let mut batches = 0;
        while let Some(News::Events(events)) = follower.look().await.unwrap() {
            let batch = batch(&mut follower, events);
            let last = batch.last().map_or(0, |(_, json)| json.len());
            assert!(batch.iter().map(|(_, json)| json.len()).sum::<usize>() <= BATCH_BYTES + last);
            numbers.extend(batch.iter().map(|(event, _)| event.number));
            batches += 1;
        }
        assert!(batches > 1, "the test has too few events");
        assert_eq!(numbers, Vec::from_iter(1..=EVENTS));
    }

    #[test]
    fn readers_have_places_and_lose_them_when_their_principal_or_the_hub_goes() {
        let live = Live::new(None, 2.0 / READERS_MAX as f64);
        let (ann, bob) = (Arc::from("ann"), Arc::from("bob"));
        let (first, second) = (live.enter(&ann).unwrap(), live.enter(&ann).unwrap());
        assert_eq!(live.enter(&ann).err().unwrap().kind, Kind::Busy, "it has its share");
        let bobs = live.enter(&bob).unwrap();
        live.revoke("ann");
        assert!(first.ended.is_cancelled() && second.ended.is_cancelled() && !bobs.ended.is_cancelled());
        drop(first);
        assert!(!live.enter(&ann).unwrap().ended.is_cancelled(), "let in again");
        live.stop();
        assert!(bobs.ended.is_cancelled());
        assert_eq!(live.enter(&bob).err().unwrap().kind, Kind::Draining);
    }
}
