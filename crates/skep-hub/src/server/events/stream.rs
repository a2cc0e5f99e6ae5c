//! Events as a stream of server-sent events (HTML, 9.2).
//!
//! Each event's `id` is its number, so a client that comes back says with `Last-Event-ID` where it was. The stream begins
//! with the number after which it goes on, and says now and then how far it has looked; so one that comes back before the
//! first event, or long after the last one that it wanted, misses nothing either, and need not look at all again.

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use futures_util::stream;
use skep_core::{
    app::EventFollower,
    db::{DbError, News},
};
use skep_mcp::server::http::Fields;
use tokio::time::timeout;

use super::{Place, batch, failed};
use crate::server::problem::{Kind, Problem, typed};

/// The media type.
const EVENT_STREAM: &str = "text/event-stream";
/// A stream that was silent for so long says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client waits before it comes back after its stream has ended.
const RETRY: Duration = Duration::from_secs(2);

/// Whether a request accepts a stream.
pub(super) fn is_wanted(headers: &Fields<'_>) -> bool {
    let is_stream = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == EVENT_STREAM);
    headers.text("accept").is_some_and(|accept| accept.split(',').any(is_stream))
}

/// Where a client was that comes back.
pub(super) fn last_event_id(headers: &Fields<'_>) -> Result<Option<i64>, Problem> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else { return Ok(None) };
    let number = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    let bad = || Problem::new(Kind::BadRequest, "Last-Event-ID is not the number of an event");
    number.ok_or_else(bad).map(Some)
}

/// Stream the events after a number; without one, those that happen from now on.
pub(super) async fn open(mut follower: EventFollower, place: Place, after: Option<i64>) -> Result<Response, Problem> {
    match after {
        Some(after) => follower.go_on_after(after),
        None => drop(follower.skip_to_end().await.map_err(failed)?),
    }
    let begin = format!("retry: {}\nid: {}\n\n", RETRY.as_millis(), follower.number());
    let reader = Reader { follower, place, state: State::Beginning(begin) };
    let chunks = stream::unfold(reader, async |mut reader| {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), reader))
    });
    let mut response = typed(StatusCode::OK, EVENT_STREAM, Body::from_stream(chunks));
    // Proxies that collect answers would hold events back (nginx).
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Reader {
    follower: EventFollower,
    place: Place,
    state: State,
}

enum State {
    /// This is said first.
    Beginning(String),
    Following,
    /// The store has failed, and the client was told.
    Failed,
}

impl Reader {
    /// What is said next; `None` at the end. Called when the client has taken what was said before.
    async fn next(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.state, State::Following) {
            State::Beginning(text) => return Some(text),
            State::Failed => return None,
            State::Following => {}
        }
        let ended = self.place.ended.clone();
        let news = ended.run_until_cancelled(timeout(HEARTBEAT, self.follower.next())).await?;
        Some(match news {
            Err(_) => format!(": still here\nid: {}\n\n", self.follower.number()),
            Ok(Ok(News::Events(events))) => {
                let mut text = String::new();
                for (event, json) in batch(&mut self.follower, events) {
                    let _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.number, event.kind.name());
                }
                text
            }
            Ok(Ok(News::Reset { first, last })) => {
                let id = self.follower.number();
                format!("id: {id}\nevent: reset\ndata: {{\"first\":{first},\"last\":{last}}}\n\n")
            }
            Ok(Err(error)) => self.failed(error),
        })
    }

    fn failed(&mut self, error: DbError) -> String {
        self.state = State::Failed;
        format!("event: error\ndata: {}\n\n", failed(error).into_json())
    }
}
