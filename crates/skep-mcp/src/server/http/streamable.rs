//! Streamable HTTP of 2025-03-26 to 2025-11-25: sessions with an `Mcp-Session-Id`, a stream for each request and one for
//! what belongs to none, and a way to go on reading where a connection broke.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll};

use axum::{
    extract::{Request as HttpRequest, State},
    http::{HeaderValue, StatusCode, header},
};

use super::{
    Accepts, Events, Fields, LAST_EVENT_ID, PROTOCOL_VERSION, Principal, Refusal, Reply, SESSION_ID, accepted,
    event_stream, failure, json, plain, principal, stateless, text,
};
use crate::{
    message::{Incoming, Message},
    revision::Revision,
    server::{
        Server, Share,
        session::{Session, SessionOptions, Work},
        sink::{EventStream, Reader, Sink, StreamEvent, Text},
    },
};

/// Milliseconds after which a client should come back to a stream that broke.
const RETRY_MS: u32 = 1000;

/// Messages of a session, or the request that opens one.
pub(super) async fn receive(
    server: &Server,
    headers: &Fields<'_>,
    incoming: Incoming,
    principal: &Arc<dyn Principal>,
    accepts: Accepts,
    share: Option<Share>,
) -> Reply {
    let is_first = matches!(&incoming, Incoming::Single(Message::Request(request)) if request.method == "initialize");
    let session = if is_first && !headers.has(SESSION_ID) {
        let limits = &server.inner.limits;
        let unsolicited = Arc::new(EventStream::new(0, limits, &server.inner.backlog));
        server.inner.backlog.add(&unsolicited);
        Session::new(&server.inner, Arc::clone(principal), Sink::Stream(unsolicited), SessionOptions::default())
    } else {
        match find(server, headers, principal) {
            Ok(session) => session,
            Err(refusal) => return refusal.into(),
        }
    };
    let stream = session.open_stream();
    let to = Sink::Stream(Arc::clone(&stream)).keeping(share);
    let mut work = None;
    let has_requests = match incoming {
        Incoming::Single(message) => {
            let is_request = matches!(message, Message::Request(_));
            work = session.receive(message, &to).await;
            is_request
        }
        Incoming::Batch(_) if !session.takes_batches() => {
            session.forget_stream(&stream);
            let message = "batches ended with 2025-03-26; send one message at a time".to_owned();
            return Refusal::new(StatusCode::BAD_REQUEST, message).into();
        }
        Incoming::Batch(messages) if messages.len() > server.inner.limits.batch_max => {
            session.forget_stream(&stream);
            let message = format!("at most {} messages go into one batch", server.inner.limits.batch_max);
            return Refusal::new(StatusCode::BAD_REQUEST, message).into();
        }
        Incoming::Batch(messages) => {
            let has_requests = messages.iter().any(|message| matches!(message, Ok(Message::Request(_)) | Err(_)));
            session.receive_batch(messages, &to).await;
            has_requests
        }
    };
    if !has_requests {
        session.forget_stream(&stream);
        return accepted();
    }
    let mut reply = answer(server, &session, &stream, accepts, work).await;
    if is_first && session.revision().is_some() {
        if let Err(error) = server.inner.sessions.insert(&session) {
            session.close();
            return failure(StatusCode::SERVICE_UNAVAILABLE, None, &error);
        }
        if let Ok(id) = HeaderValue::from_str(&session.id) {
            reply.headers.insert(SESSION_ID, id);
        }
    }
    reply
}

/// The answer as JSON if it comes soon and alone, otherwise the stream that it will come on. The work for it is done here
/// meanwhile; what is left of it goes on by itself.
async fn answer(
    server: &Server,
    session: &Arc<Session>,
    stream: &Arc<EventStream>,
    accepts: Accepts,
    mut work: Option<Work>,
) -> Reply {
    let unknown = Forget(Some((session, stream)));
    let mut reader = stream.read();
    let mut first = VecDeque::new();
    if !accepts.events {
        // What comes before the answer cannot be told.
        first.extend(until_last(&mut reader, &mut work).await);
    }
    if first.is_empty() && accepts.json {
        let next = next(&mut reader, &mut work);
        match server.inner.timers.timeout(server.inner.limits.json_time_max, next).await {
            Some(Some(event)) => first.push_back(event),
            // Withdrawn before there was anything to say.
            Some(None) => return accepted(),
            None => {}
        }
    }
    match first.front() {
        Some(event) if event.is_last && accepts.json => json(StatusCode::OK, event.text.clone()),
        _ => {
            // From here on the client knows numbers of events, and may come back for what follows.
            unknown.disarm();
            server.inner.backlog.add(stream);
            events(server, session, first, reader)
        }
    }
}

/// Forgets a stream that nobody can come back to, also when its client goes away before it has heard anything.
struct Forget<'a>(Option<(&'a Arc<Session>, &'a Arc<EventStream>)>);

impl Forget<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some((session, stream)) = self.0 {
            session.forget_stream(stream);
        }
    }
}

/// The next event of a stream on which nothing comes but by this work.
async fn next(reader: &mut Reader, work: &mut Option<Work>) -> Option<StreamEvent> {
    let first = poll_fn(|cx| {
        let has_ended = work.as_mut().is_none_or(|work| work.poll(cx).is_ready());
        match reader.look() {
            Poll::Pending if has_ended => Poll::Ready(None),
            looked => looked.map(Some),
        }
    });
    match first.await {
        Some(event) => event,
        None => reader.next().await,
    }
}

async fn until_last(reader: &mut Reader, work: &mut Option<Work>) -> Option<StreamEvent> {
    loop {
        let event = next(reader, work).await?;
        if event.is_last {
            return Some(event);
        }
    }
}

fn events(server: &Server, session: &Arc<Session>, first: VecDeque<StreamEvent>, reader: Reader) -> Reply {
    // A first event with an id and no data, so that a client can come back before there was any (2025-11-25).
    let is_primed = session.revision() >= Some(Revision::V2025_11_25);
    let (stream, after) = reader.position();
    let after = first.front().map_or(after, |event| event.number - 1);
    let primer = is_primed.then(|| format!("id: {stream}_{after}\nretry: {RETRY_MS}\ndata: \n\n").into());
    let session = Arc::clone(session);
    event_stream(SessionEvents { primer, first, reader, _session: session }, server.inner.limits.keep_alive)
}

/// A stream of a session.
struct SessionEvents {
    primer: Option<Text>,
    first: VecDeque<StreamEvent>,
    reader: Reader,
    _session: Arc<Session>,
}

impl Events for SessionEvents {
    async fn next(&mut self) -> Option<Text> {
        if let Some(primer) = self.primer.take() {
            return Some(primer);
        }
        let next = match self.first.pop_front() {
            Some(event) => event,
            None => self.reader.next().await?,
        };
        let (stream, _) = self.reader.position();
        Some(next.text.into_event(Some(&format!("{stream}_{}", next.number))))
    }
}

/// `GET`: the stream of what belongs to no request, or what is left of the one named by `Last-Event-ID`.
pub(super) async fn read(State(server): State<Server>, request: HttpRequest) -> Reply {
    let principal = principal(&request);
    let headers = &Fields::from(request.headers());
    if let Some(reply) = not_for_sessions(headers) {
        return reply;
    }
    if Accepts::read(headers).is_none_or(|accepts| !accepts.events) {
        return plain(StatusCode::NOT_ACCEPTABLE, "this is a stream of events; accept text/event-stream");
    }
    let session = match find(&server, headers, &principal) {
        Ok(session) => session,
        Err(refusal) => return refusal.into(),
    };
    let last = headers.get(LAST_EVENT_ID).map(|id| {
        let (stream, event) = text(id)?.trim().split_once('_')?;
        Some((stream.parse().ok()?, event.parse().ok()?))
    });
    let reader = match last {
        None => session.stream(0).map(|stream| stream.read()),
        Some(Some((stream, event))) => session.stream(stream).map(|stream| stream.read_after(event)),
        Some(None) => return plain(StatusCode::BAD_REQUEST, "Last-Event-ID is not an id that this server gave"),
    };
    match reader {
        Some(reader) => events(&server, &session, VecDeque::new(), reader),
        None => plain(StatusCode::NOT_FOUND, "this stream is not kept any more; send the request again"),
    }
}

/// `DELETE`: the client needs the session no more.
pub(super) async fn end(State(server): State<Server>, request: HttpRequest) -> Reply {
    let principal = principal(&request);
    let headers = &Fields::from(request.headers());
    if let Some(reply) = not_for_sessions(headers) {
        return reply;
    }
    match find(&server, headers, &principal) {
        Ok(session) => {
            server.inner.sessions.remove(&session.id);
            plain(StatusCode::OK, "")
        }
        Err(refusal) => refusal.into(),
    }
}

/// 2026-07-28 has neither sessions nor streams of its own.
fn not_for_sessions(headers: &Fields<'_>) -> Option<Reply> {
    (!headers.has(SESSION_ID) && stateless::names_modern_revision(headers)).then(|| {
        let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "2026-07-28 has only POST here");
        reply.headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        reply
    })
}

/// The session that the headers name.
fn find(server: &Server, headers: &Fields<'_>, principal: &Arc<dyn Principal>) -> Result<Arc<Session>, Refusal> {
    let refuse = |status, message: &str| Err(Refusal::new(status, message));
    let Some(id) = headers.text(SESSION_ID) else {
        let message = "this is neither a request with the metadata of 2026-07-28 (params._meta) nor one of a session: \
                       send initialize, and then the Mcp-Session-Id that comes with its answer";
        return refuse(StatusCode::BAD_REQUEST, message);
    };
    let Some(session) = server.inner.sessions.get(id, principal.name()) else {
        return refuse(StatusCode::NOT_FOUND, "there is no such session (any more); send initialize to begin another");
    };
    // 2025-06-18 and later send the header; before it did not exist.
    if let Some(version) = headers.get(PROTOCOL_VERSION) {
        let known = text(version).and_then(|version| version.trim().parse::<Revision>().ok());
        if known.is_none_or(Revision::is_modern) {
            return refuse(StatusCode::BAD_REQUEST, "MCP-Protocol-Version names no revision that has sessions");
        }
    }
    Ok(session)
}
