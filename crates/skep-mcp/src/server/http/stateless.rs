//! Streamable HTTP of 2026-07-28: one request, one answer, nothing kept. A client that goes away cancels its request.

use std::sync::Arc;

use axum::http::StatusCode;

use super::{
    Accepts, Events, Fields, PROTOCOL_VERSION, Principal, Reply, SESSION_ID, accepted, event_stream, failure, json,
    text,
};
use crate::{
    message::{ErrorObject, Incoming, Message},
    revision::Revision,
    server::{
        Server, Share, code, headers,
        modern::{self, Answer, Begun, Frame, Known, Opened},
        sink::Text,
    },
};

/// Whether this is a request of 2026-07-28 or later.
pub(super) fn is_meant(headers: &Fields<'_>, incoming: &Incoming) -> bool {
    // The header is quickly looked at, the body is not.
    names_modern_revision(headers)
        || matches!(incoming, Incoming::Single(Message::Request(request)) if modern::is_modern(request))
}

/// Whether the header names 2026-07-28, or, outside of a session, a revision that nobody knows.
pub(super) fn names_modern_revision(headers: &Fields<'_>) -> bool {
    let Some(version) = headers.get(PROTOCOL_VERSION) else { return false };
    match text(version).and_then(|version| version.trim().parse::<Revision>().ok()) {
        Some(revision) => revision.is_modern(),
        None => !headers.has(SESSION_ID),
    }
}

pub(super) async fn receive(
    server: &Server,
    headers: &Fields<'_>,
    incoming: Incoming,
    principal: &Arc<dyn Principal>,
    accepts: Accepts,
    share: Option<Share>,
    known: &mut Known,
) -> Reply {
    let request = match incoming {
        Incoming::Single(Message::Request(request)) => Arc::new(request),
        Incoming::Single(Message::Notification(_)) => return accepted(),
        _ => {
            let message = "the body must be one request or one notification (2026-07-28)";
            return failure(StatusCode::BAD_REQUEST, None, &ErrorObject::new(code::INVALID_REQUEST, message));
        }
    };
    // Without metadata there is nothing to compare the headers with, and beginning it says what is missing.
    let opened = Opened::new(&request, principal, known);
    if let Some(version) = opened.named_revision()
        && let Err(error) = headers::check(headers, &request.method, &opened.params, &version, &*server.inner.service)
    {
        return failure(StatusCode::BAD_REQUEST, Some(&request.id), &error);
    }
    let limits = &server.inner.limits;
    let mut begun = modern::begin(&server.inner, opened).await;
    let first = match accepts.events {
        true => server.inner.timers.timeout(limits.json_time_max, begun.next()).await.flatten(),
        false => answer(&mut begun).await,
    };
    match first {
        Some(Frame::Answer(Answer { text, status })) if accepts.json => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            json(status, text)
        }
        first => event_stream(Frames { first, begun, _share: share }, limits.keep_alive),
    }
}

/// The answer alone: what comes before it cannot be told.
async fn answer(begun: &mut Begun) -> Option<Frame> {
    loop {
        match begun.next().await {
            Some(Frame::Notification(_)) => {}
            frame => return frame,
        }
    }
}

/// What is sent for one request.
struct Frames {
    first: Option<Frame>,
    begun: Begun,
    _share: Option<Share>,
}

impl Events for Frames {
    async fn next(&mut self) -> Option<Text> {
        let frame = match self.first.take() {
            Some(frame) => frame,
            None => self.begun.next().await?,
        };
        let text = match frame {
            Frame::Notification(text) | Frame::Answer(Answer { text, .. }) => text,
        };
        Some(text.into_event(None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_revision_in_a_header_is_stateless_if_it_is_the_newest_or_nobodys_outside_of_a_session(
            version in prop_oneof![
                prop::sample::select(&Revision::ALL[..]).prop_map(|revision| revision.as_str().into()),
                "20[0-9]{2}-[0-9]{2}-[0-9]{2}".prop_map(String::into_bytes),
                any::<Vec<u8>>(),
            ],
            padding in "[ \t]{0,2}",
            has_session: bool,
        ) {
            let padded = [padding.as_bytes(), &version, padding.as_bytes()].concat();
            let session = has_session.then_some((SESSION_ID, &b"s"[..]));
            let headers = [(PROTOCOL_VERSION, &padded[..])].into_iter().chain(session).collect();
            let name = String::from_utf8(version).unwrap_or_default();
            let is_older = Revision::ALL[..4].iter().any(|revision| revision.as_str() == name.trim());
            let is_newest = name.trim() == "2026-07-28";
            prop_assert_eq!(names_modern_revision(&headers), is_newest || !(is_older || has_session));
        }
    }
}
