//! HTTP+SSE, the transport of 2024-11-05: a stream that first names the address for messages, and carries all answers.

use std::sync::Arc;

use axum::{
    extract::{Query, Request as HttpRequest, State},
    http::StatusCode,
};
use tokio::sync::mpsc;

use super::{Events, Refusal, Reply, event_stream, failure, plain, principal, read_body};
use crate::{
    message::{Incoming, parse},
    server::{
        Server, Share,
        session::{Session, SessionOptions},
        sink::{Outbox, Text, Unwritten},
    },
};

/// Messages that wait on one stream; whoever has another one waits.
const QUEUE_MAX: usize = 64;

/// `GET /sse`: open a session. It ends with this stream.
pub(super) async fn open(State(server): State<Server>, request: HttpRequest) -> Reply {
    let principal = principal(&request);
    let (to, waiting, unwritten) = Outbox::open(QUEUE_MAX, server.inner.limits.memories.of(principal.name()));
    let session = Session::new(&server.inner, principal, to, SessionOptions::default());
    if let Err(error) = server.inner.sessions.insert(&session) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, None, &error);
    }
    let endpoint = format!("event: endpoint\ndata: /messages?sessionId={}\n\n", session.id);
    let keep_alive = server.inner.limits.keep_alive;
    event_stream(SessionStream { endpoint: Some(endpoint.into()), waiting, unwritten, session, server }, keep_alive)
}

struct SessionStream {
    endpoint: Option<Text>,
    waiting: mpsc::Receiver<Text>,
    unwritten: Arc<Unwritten>,
    session: Arc<Session>,
    server: Server,
}

impl Events for SessionStream {
    async fn next(&mut self) -> Option<Text> {
        if let Some(endpoint) = self.endpoint.take() {
            return Some(endpoint);
        }
        let text = self.session.closed().run_until_cancelled(self.waiting.recv()).await??;
        self.unwritten.written(text.len()); // it is the one that is being written
        Some(text.into_event(None))
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.server.inner.sessions.remove(&self.session.id);
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Address {
    session_id: String,
}

/// `POST /messages`: one message of a session; the answer comes on its stream.
pub(super) async fn receive(
    State(server): State<Server>,
    Query(address): Query<Address>,
    mut request: HttpRequest,
) -> Reply {
    let share = request.extensions_mut().remove::<Share>();
    let Some(session) = server.inner.sessions.get(&address.session_id, principal(&request).name()) else {
        return plain(StatusCode::NOT_FOUND, "there is no such session (any more); open /sse to begin another");
    };
    let body = match read_body(&server, request.into_body()).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into(),
    };
    let to = session.unsolicited().clone().keeping(share);
    match parse(&body) {
        Err(malformed) => return failure(StatusCode::BAD_REQUEST, malformed.id.as_ref(), &malformed.error),
        Ok(Incoming::Single(message)) => drop(session.receive(message, &to).await), // the stream has its answer
        Ok(Incoming::Batch(messages)) if messages.len() <= server.inner.limits.batch_max => {
            session.receive_batch(messages, &to).await;
        }
        Ok(Incoming::Batch(_)) => {
            let message = format!("at most {} messages go into one batch", server.inner.limits.batch_max);
            return Refusal::new(StatusCode::BAD_REQUEST, message).into();
        }
    }
    plain(StatusCode::ACCEPTED, "Accepted")
}
