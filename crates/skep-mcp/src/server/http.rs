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
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

pub use self::fields::{Fields, text};
pub use super::modern::Known;
use super::{
    Principal, Server, Share, code, local,
    sink::{self, Text},
};
use crate::message::{ErrorObject, parse};

const SESSION_ID: &str = "mcp-session-id";
const PROTOCOL_VERSION: &str = "mcp-protocol-version";
pub(super) const LAST_EVENT_ID: &str = "last-event-id";
const EVENT_STREAM: &str = "text/event-stream";

/// Who the caller is, as whoever stands before this router found out: an extension of the request. Without it all callers are
/// one ([`local`]).
#[derive(Clone, Debug)]
pub struct Identified(pub Arc<dyn Principal>);

/// `/mcp` for Streamable HTTP of every revision; `/sse` and `/messages` for HTTP+SSE (2024-11-05).
pub fn router(server: Server) -> Router {
    Router::new()
        .route("/mcp", post(receive).get(streamable::read).delete(streamable::end))
        .route("/sse", get(sse::open))
        .route("/messages", post(sse::receive))
        .with_state(server)
}

/// `POST /mcp`.
async fn receive(axum::extract::State(server): axum::extract::State<Server>, request: HttpRequest) -> Reply {
    let principal = principal(&request);
    let (mut parts, body) = request.into_parts();
    let share = parts.extensions.remove::<Share>();
    match read_body(&server, body).await {
        Ok(body) => {
            answer_post(&server, &Fields::from(&parts.headers), &body, &principal, share, &mut Known::default()).await
        }
        Err(refusal) => refusal.into(),
    }
}

/// Answer one message, or several, on the endpoint of both eras: `POST /mcp` for whoever has read the request itself, and kept
/// the body within its limits. `share` is kept until the message is answered; `known` is the connection's.
pub async fn answer_post(
    server: &Server,
    headers: &Fields<'_>,
    body: &[u8],
    principal: &Arc<dyn Principal>,
    share: Option<Share>,
    known: &mut Known,
) -> Reply {
    let Some(accepts) = Accepts::read(headers) else {
        let message = "the answer is application/json or text/event-stream; accept both";
        return plain(StatusCode::NOT_ACCEPTABLE, message);
    };
    match parse(body) {
        Err(malformed) => failure(StatusCode::BAD_REQUEST, malformed.id.as_ref(), &malformed.error),
        Ok(incoming) if stateless::is_meant(headers, &incoming) => {
            stateless::receive(server, headers, incoming, principal, accepts, share, known).await
        }
        Ok(incoming) => streamable::receive(server, headers, incoming, principal, accepts, share).await,
    }
}

fn principal(request: &HttpRequest) -> Arc<dyn Principal> {
    request.extensions().get::<Identified>().map_or_else(local, |principal| Arc::clone(&principal.0))
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

impl From<Refusal> for Reply {
    fn from(Refusal { status, error }: Refusal) -> Reply {
        failure(status, None, &error)
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

/// An answer. Most say hardly anything in their heads, so that these are not built before somebody sends them.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// What the body is, if there is one.
    pub content_type: Option<&'static str>,
    /// What else is to be said.
    pub headers: HeaderMap,
    /// The body.
    pub body: Content,
}

/// The body of an answer.
#[derive(Debug)]
pub struct Content(Kind);

#[derive(Debug)]
enum Kind {
    /// A message, whose length is known.
    Message(Text),
    Other(Body),
}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: Kind) -> Reply {
        Reply { status, content_type: Some(content_type), headers: HeaderMap::new(), body: Content(body) }
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Reply {
        let (parts, body) = response.into_parts();
        Reply { status: parts.status, content_type: None, headers: parts.headers, body: Content(Kind::Other(body)) }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(match self.body {
            Content(Kind::Other(body)) => body,
            message => Body::new(message),
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let kind = self.content_type.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind)));
        response.headers_mut().extend(kind);
        response
    }
}

impl HttpBody for Content {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.0 {
            Kind::Message(text) => Poll::Ready(text.pop().map(|piece| Ok(Frame::data(piece)))),
            Kind::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Message(text) => text.is_empty(),
            Kind::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Message(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Other(body) => body.size_hint(),
        }
    }
}

fn json(status: StatusCode, text: impl Into<Text>) -> Reply {
    Reply::new(status, "application/json", Kind::Message(text.into()))
}

fn plain(status: StatusCode, text: &str) -> Reply {
    Reply::new(status, "text/plain; charset=utf-8", Kind::Other(text.to_owned().into()))
}

/// Taken, and there is nothing to say about it.
fn accepted() -> Reply {
    let (headers, body) = (HeaderMap::new(), Content(Kind::Other(Body::empty())));
    Reply { status: StatusCode::ACCEPTED, content_type: None, headers, body }
}

fn failure(status: StatusCode, id: Option<&crate::message::Id>, error: &ErrorObject) -> Reply {
    let mut reply = json(status, sink::error(id, error));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

/// Something that gives events until it ends. Dropped when the client goes away.
trait Events: Send + 'static {
    /// The next event, as it stands in the stream.
    fn next(&mut self) -> impl Future<Output = Option<Text>> + Send;
}

/// A stream of events, with a comment now and then while there are none.
fn event_stream(events: impl Events, keep_alive: Duration) -> Reply {
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
    let mut reply = Reply::new(StatusCode::OK, EVENT_STREAM, Kind::Other(Body::from_stream(chunks)));
    // Proxies that collect answers would hold events back (nginx).
    reply.headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}
