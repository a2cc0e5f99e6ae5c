//! The events of one hub, page by page or as they happen.

use reqwest::{Response, header};
use serde_json::{Map, Value};

use super::{
    Hubs, innermost,
    show::{SHOW_TIME_MAX, ShowError},
};

/// Where they are.
const PATH: [&str; 3] = ["api", "v1", "events"];
/// Bytes of one event.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Events as they happen, until the hub ends the stream.
pub struct EventStream {
    hub: String,
    response: Response,
    unread: Vec<u8>,
    /// The number of the last event, or how far the hub has looked since.
    pub last: Option<i64>,
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEvent {
    /// The kind of the event, or `reset`, or `error`.
    pub name: String,
    /// JSON.
    pub data: String,
}

impl Hubs {
    /// A page of the events of the first hub.
    pub async fn show_events(&self, query: &[(&str, String)]) -> Result<Map<String, Value>, ShowError> {
        self.get(&PATH, query, SHOW_TIME_MAX).await
    }

    /// Follow the events of the first hub, from where another stream ended, if one did.
    pub async fn follow_events(&self, query: &[(&str, String)], last: Option<i64>) -> Result<EventStream, ShowError> {
        let hub = &self.hubs[0]; // there is one
        let mut request = self.with_token(hub.client.get(self.url(&PATH, query)));
        request = request.header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let name = hub.name.clone();
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(ShowError::Unreachable { hub: name, why: innermost(&error) }),
        };
        let is_stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        if response.status().is_success() && is_stream {
            return Ok(EventStream { hub: name, response, unread: Vec::new(), last });
        }
        Err(self.refusal(name, response).await)
    }
}

impl EventStream {
    /// The next event; `None` if the hub has ended the stream. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>, ShowError> {
        let broken = |hub: &str, why: String| ShowError::Unreachable { hub: hub.to_owned(), why };
        loop {
            while let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                let (event, id) = parse(&String::from_utf8_lossy(&block));
                self.last = id.or(self.last);
                if !event.data.is_empty() {
                    return Ok(Some(event));
                }
            }
            if self.unread.len() > EVENT_BYTES_MAX {
                return Err(broken(&self.hub, "an event has no end".to_owned()));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.unread.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(broken(&self.hub, innermost(&error))),
            }
        }
    }
}

/// One block of a stream, as a hub writes it, and the number in it.
fn parse(block: &str) -> (StreamEvent, Option<i64>) {
    let (mut event, mut id) = (StreamEvent::default(), None);
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", value)) => id = value.parse().ok(),
            Some(("event", value)) => value.clone_into(&mut event.name),
            Some(("data", value)) => event.data += value,
            _ => {} // a comment, or when to come back
        }
    }
    (event, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_an_event_or_says_how_far_the_hub_has_looked() {
        let event = StreamEvent { name: "run.started".to_owned(), data: "{\"a\": 1}".to_owned() };
        assert_eq!(parse("id: 7\nevent: run.started\ndata: {\"a\": 1}\n\n"), (event, Some(7)));
        assert_eq!(parse(": still here\nid: 8\n\n"), (StreamEvent::default(), Some(8)));
        assert_eq!(parse("retry: 2000\nid: 0\n\n"), (StreamEvent::default(), Some(0)));
    }
}
