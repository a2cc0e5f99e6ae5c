//! The HTTP transports. [`router`] is their table of contents.
//!
//! One endpoint serves both eras. A request that names its revision in its metadata, or 2026-07-28 in its header, is
//! stateless: it lives and dies with its HTTP request. Everything else belongs to a session, whose calls outlive it.
//! An answer that is ready soon is sent as JSON; what takes longer, or has something to say before, becomes a stream.

mod fields;
mod sse;
mod stateless;
mod streamable;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request as HttpRequest,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

pub use self::fields::{Fields, text};
use super::{
    Server, Share, code, local,
    sink::{self, Text},
};
use crate::message::{ErrorObject, parse};

const SESSION_ID: &str = "mcp-session-id";
const PROTOCOL_VERSION: &str = "mcp-protocol-version";
const LAST_EVENT_ID: &str = "last-event-id";
const EVENT_STREAM: &str = "text/event-stream";

/// Who the caller is, as whoever stands before this router found out: an extension of the request. Without it all callers are
/// one ([`local`]).
#[derive(Clone, Debug)]
pub struct Principal(pub Arc<str>);

/// `/mcp` for Streamable HTTP of every revision; `/sse` and `/messages` for HTTP+SSE (2024-11-05).
pub fn router(server: Server) -> Router {
    Router::new()
        .route("/mcp", post(receive).get(streamable::read).delete(streamable::end))
        .route("/sse", get(sse::open))
        .route("/messages", post(sse::receive))
        .with_state(server)
}

/// `POST /mcp`.
async fn receive(axum::extract::State(server): axum::extract::State<Server>, request: HttpRequest) -> Response {
    let principal = principal(&request);
    let (mut parts, body) = request.into_parts();
    let share = parts.extensions.remove::<Share>();
    match read_body(&server, body).await {
        Ok(body) => answer_post(&server, &Fields::from(&parts.headers), &body, &principal, share).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Answer one message, or several, on the endpoint of both eras: `POST /mcp` for whoever has read the request itself, and kept
/// the body within its limits. `share` is kept until the message is answered.
pub async fn answer_post(
    server: &Server,
    headers: &Fields<'_>,
    body: &[u8],
    principal: &Arc<str>,
    share: Option<Share>,
) -> Response {
    let Some(accepts) = Accepts::read(headers) else {
        let message = "the answer is application/json or text/event-stream; accept both";
        return plain(StatusCode::NOT_ACCEPTABLE, message);
    };
    match parse(body) {
        Err(malformed) => failure(StatusCode::BAD_REQUEST, malformed.id.as_ref(), &malformed.error),
        Ok(incoming) if stateless::is_meant(headers, &incoming) => {
            stateless::receive(server, headers, incoming, principal, accepts, share).await
        }
        Ok(incoming) => streamable::receive(server, headers, incoming, principal, accepts, share).await,
    }
}

fn principal(request: &HttpRequest) -> Arc<str> {
    request.extensions().get::<Principal>().map_or_else(local, |principal| Arc::clone(&principal.0))
}

async fn read_body(server: &Server, body: Body) -> Result<Bytes, Refusal> {
    let limits = &server.inner.limits;
    match timeout(limits.body_time_max, axum::body::to_bytes(body, limits.message_bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let message = format!("the body is larger than {} bytes, or cut off", limits.message_bytes_max);
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {}s", limits.body_time_max.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// A message that was not even looked at.
struct Refusal {
    status: StatusCode,
    error: ErrorObject,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, error: ErrorObject::new(code::INVALID_REQUEST, message) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        failure(self.status, None, &self.error)
    }
}

/// What the client can read.
#[derive(Clone, Copy)]
struct Accepts {
    json: bool,
    events: bool,
}

impl Accepts {
    /// `None` if it is neither. A client that says nothing reads both.
    fn read(headers: &Fields<'_>) -> Option<Accepts> {
        /// What clients are told to send (2025-03-26, Streamable HTTP), and most send just so.
        const USUAL: &[u8] = b"application/json, text/event-stream";
        if headers.all("accept").eq([USUAL]) {
            return Some(Accepts { json: true, events: true });
        }
        let values = headers.all("accept").filter_map(text);
        let named =
            values.flat_map(|value| value.split(',')).map(|one| one.split(';').next().unwrap_or_default().trim());
        let mut types = named.filter(|one| !one.is_empty()).peekable();
        let says_nothing = types.peek().is_none();
        let mut accepts = Accepts { json: says_nothing, events: says_nothing };
        for one in types {
            let is = |wanted: &[&str]| wanted.iter().any(|known| one.eq_ignore_ascii_case(known));
            accepts.json |= is(&["application/json", "application/*", "*/*"]);
            accepts.events |= is(&[EVENT_STREAM, "text/*", "*/*"]);
        }
        (accepts.json || accepts.events).then_some(accepts)
    }
}

fn json(status: StatusCode, text: impl Into<Text>) -> Response {
    respond(status, "application/json", Body::new(Pieces(text.into())))
}

/// A message as a body, whose length is known.
struct Pieces(Text);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

fn plain(status: StatusCode, text: &str) -> Response {
    respond(status, "text/plain; charset=utf-8", Body::from(text.to_owned()))
}

/// Taken, and there is nothing to say about it.
fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn failure(status: StatusCode, id: Option<&crate::message::Id>, error: &ErrorObject) -> Response {
    let mut response = json(status, sink::error(id, error));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Something that gives events until it ends. Dropped when the client goes away.
trait Events: Send + 'static {
    /// The next event, as it stands in the stream.
    fn next(&mut self) -> impl Future<Output = Option<Text>> + Send;
}

/// A stream of events, with a comment now and then while there are none.
fn event_stream(events: impl Events, keep_alive: Duration) -> Response {
    let chunks = stream::unfold((events, Text::default()), move |(mut events, mut event)| async move {
        loop {
            if let Some(piece) = event.pop() {
                return Some((Ok::<_, Infallible>(piece), (events, event)));
            }
            event = match timeout(keep_alive, events.next()).await {
                Ok(next) => next?,
                Err(_) => ": still here\n\n".to_owned().into(),
            };
        }
    });
    let mut response = respond(StatusCode::OK, EVENT_STREAM, Body::from_stream(chunks));
    // Proxies that collect answers would hold events back (nginx).
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
