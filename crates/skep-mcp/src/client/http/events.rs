//! Server-sent events: a stream of text, bounded.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use memchr::memchr2;

use super::super::CallError;
use crate::framing::{Held, Memory};

/// What the first line of a stream may begin with (byte order mark).
const MARK: &[u8] = "\u{feff}".as_bytes();

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// What kind; empty means `message`.
    pub(super) name: String,
    /// What it says, which is text.
    pub(super) data: Bytes,
}

/// Reads events from the parts of a body (WHATWG, server-sent events).
pub(super) struct Parser {
    /// The beginning of a line that has not ended yet.
    rest: Vec<u8>,
    event: Event,
    /// Whether the event has a line of data, which may be empty.
    has_data: bool,
    /// Its lines of data, if it has several.
    lines: Vec<u8>,
    /// The id of the event that is being read: it counts when the event has ended.
    id: Option<String>,
    /// The last line ended with a carriage return, and a line feed that comes now belongs to it.
    is_after_return: bool,
    /// No line of the stream was read yet: the first may begin with a byte order mark.
    is_at_start: bool,
    bytes_max: usize,
    /// The last event's id, by which a stream is continued.
    pub(super) last_id: Option<String>,
    /// How long to wait before that, as the server wants it.
    pub(super) retry: Option<Duration>,
}

impl Parser {
    pub(super) fn new(bytes_max: usize) -> Parser {
        Parser {
            rest: Vec::new(),
            event: Event::default(),
            has_data: false,
            lines: Vec::new(),
            id: None,
            is_after_return: false,
            is_at_start: true,
            bytes_max,
            last_id: None,
            retry: None,
        }
    }

    /// Another stream begins. What was cut off in the last one is forgotten: it comes again, whole.
    pub(super) fn begin(&mut self) {
        let (last_id, retry) = (self.last_id.take(), self.retry);
        *self = Parser { id: last_id.clone(), last_id, retry, ..Parser::new(self.bytes_max) };
    }

    /// Have what is kept of an event take its share of the memory, with the part that comes next.
    pub(super) async fn make_room(
        &self,
        memory: Option<&Memory>,
        held: &mut Option<Held>,
        part: &[u8],
    ) -> Result<(), CallError> {
        let Some(memory) = memory else { return Ok(()) };
        memory.make_room_for_more(held, self.kept() + part.len(), self.bytes_max).await.map_err(CallError::NoRoom)
    }

    /// Take a part of the body; the events that it completes.
    pub(super) fn push(&mut self, part: &Bytes) -> Result<Vec<Event>, CallError> {
        let mut events = Vec::new();
        let mut part = &part[..];
        if self.is_after_return && !part.is_empty() {
            self.is_after_return = false;
            part = part.strip_prefix(b"\n").unwrap_or(part);
        }
        while let Some(end) = memchr2(b'\n', b'\r', part) {
            self.fits(end)?;
            self.rest.extend_from_slice(&part[..end]);
            let is_return = part[end] == b'\r';
            part = &part[end + 1..];
            self.is_after_return = is_return && part.is_empty();
            if is_return {
                part = part.strip_prefix(b"\n").unwrap_or(part);
            }
            let line = std::mem::take(&mut self.rest);
            events.extend(self.line(line.into()));
        }
        self.fits(part.len())?;
        self.rest.extend_from_slice(part);
        Ok(events)
    }

    fn fits(&self, more: usize) -> Result<(), CallError> {
        if self.kept() + more <= self.bytes_max {
            return Ok(());
        }
        Err(CallError::Protocol(format!("an event is longer than {} bytes", self.bytes_max)))
    }

    fn kept(&self) -> usize {
        self.event.data.len() + self.lines.len() + self.rest.len()
    }

    fn line(&mut self, line: Bytes) -> Option<Event> {
        let is_first = std::mem::take(&mut self.is_at_start);
        let line = if is_first && line.starts_with(MARK) { line.slice(MARK.len()..) } else { line };
        let line = match String::from_utf8_lossy(&line) {
            Cow::Borrowed(_) => line,
            Cow::Owned(text) => text.into(),
        };
        if line.is_empty() {
            self.last_id.clone_from(&self.id);
            let mut event = std::mem::take(&mut self.event);
            self.has_data = false;
            if !self.lines.is_empty() {
                event.data = std::mem::take(&mut self.lines).into();
            }
            return (!event.data.is_empty()).then_some(event); // without data it only carried an id
        }
        let text = std::str::from_utf8(&line).unwrap_or_default();
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            // Most have one line of it, which may be long: it stays where it is.
            "data" if !std::mem::replace(&mut self.has_data, true) => {
                self.event.data = line.slice_ref(value.as_bytes())
            }
            "data" => {
                self.lines.extend_from_slice(&std::mem::take(&mut self.event.data));
                self.lines.push(b'\n');
                self.lines.extend_from_slice(value.as_bytes());
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry);
            }
            _ => {} // a comment, or something unknown
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use sse_stream::SseStream;

    use super::*;
    use crate::{
        message::{Message, Notification},
        server::sink::Text,
    };

    const STREAM: &str = ": hello\r\nid: 1\r\ndata:\r\n\r\nevent: endpoint\ndata: /m?a=b\n\nid: 7\nretry: 250\ndata: {\"a\":\ndata: 1}\n\ndata: cut";

    #[test]
    fn events_are_the_same_however_the_body_is_cut() {
        let whole = Parser::new(1000).push(&Bytes::from(STREAM)).unwrap();
        assert_eq!(whole[0], Event { name: "endpoint".to_owned(), data: Bytes::from("/m?a=b") });
        assert_eq!(whole[1].data, "{\"a\":\n1}");
        assert_eq!(whole.len(), 2, "an event that did not end is none");
        let mut parser = Parser::new(1000);
        let bytes: Vec<Event> =
            STREAM.bytes().flat_map(|byte| parser.push(&Bytes::from(vec![byte])).unwrap()).collect();
        assert_eq!(bytes, whole);
        assert_eq!((parser.last_id.as_deref(), parser.retry), (Some("7"), Some(Duration::from_millis(250))));
    }

    #[test]
    fn a_line_ends_with_a_return_a_feed_or_both() {
        let read = |parts: &[&str]| {
            let mut parser = Parser::new(1000);
            let read = parts.iter().flat_map(|part| parser.push(&Bytes::copy_from_slice(part.as_bytes())).unwrap());
            let read: Vec<String> = read.map(|event| String::from_utf8(event.data.into()).unwrap()).collect();
            (read, parser.last_id)
        };
        let expected = (vec!["a\nb".to_owned(), "c".to_owned()], Some("1".to_owned()));
        for end in ["\n", "\r", "\r\n"] {
            let stream = ["\u{feff}data: a", "data: b", "id: 1", "", "data: c", "", ""].join(end);
            assert_eq!(read(&[&stream]), expected, "{end:?}");
        }
        // What stands between two parts is one end of a line, not two.
        assert_eq!(read(&["data: a\r", "\ndata: b\r", "", "\nid: 1\r", "\n\r", "\ndata: c\r\r"]), expected);
    }

    #[test]
    fn what_a_stream_left_unfinished_does_not_count_and_is_not_mixed_with_the_next_stream() {
        let mut parser = Parser::new(1000);
        assert_eq!(parser.push(&Bytes::from("id: 1\nretry: 9\ndata: whole\n\nid: 2\ndata: cut\nda")).unwrap().len(), 1);
        assert_eq!(parser.last_id.as_deref(), Some("1"), "the second event has not come");
        parser.begin();
        let events = parser.push(&Bytes::from("ta: x\ndata: again\n\n")).unwrap();
        assert_eq!(events, [Event { name: String::new(), data: Bytes::from("again") }]);
        assert_eq!((parser.last_id.as_deref(), parser.retry), (Some("1"), Some(Duration::from_millis(9))));
    }

    #[test]
    fn an_event_without_an_end_is_bounded() {
        let mut parser = Parser::new(100);
        let line = Bytes::from(format!("data: {}\n", "x".repeat(40)));
        assert!(parser.push(&line).is_ok() && parser.push(&line).is_ok());
        assert!(parser.push(&line).is_err());
        assert!(Parser::new(100).push(&Bytes::from("y".repeat(101))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_body_gives_the_same_however_it_is_cut(
            body in proptest::collection::vec(proptest::sample::select(&b"\n\n\r\r: dataevnti\x80\xc3{"[..]), 0..200),
            cut in 1_usize..40,
        ) {
            let read = |part: usize| {
                let mut parser = Parser::new(60);
                let read: Result<Vec<Vec<Event>>, ()> =
                    body.chunks(part).map(|part| parser.push(&Bytes::copy_from_slice(part)).map_err(|_| ())).collect();
                (read.map(|events| events.into_iter().flatten().collect::<Vec<_>>()), parser.last_id, parser.retry)
            };
            let (whole, last_id, retry) = read(200);
            let (parts, part_id, part_retry) = read(cut);
            proptest::prop_assert_eq!(&parts, &whole);
            if whole.is_ok() {
                proptest::prop_assert_eq!((part_id, part_retry), (last_id, retry));
            }
        }

        #[test]
        fn what_the_server_writes_is_read_here_and_by_another_parser(
            messages in proptest::collection::vec((proptest::option::of("[a-z0-9_]{1,8}"), ".*", ".*"), 1..6),
            cut in 1_usize..60,
        ) {
            let (mut stream, mut written) = (String::new(), Vec::new());
            for (id, method, param) in messages {
                // Over several lines, as servers behind the hub may write it.
                let params = serde_json::to_string_pretty(&serde_json::json!({ "param": param })).unwrap();
                let params = serde_json::value::RawValue::from_string(params).ok();
                let text = Message::Notification(Notification { method: method.into(), params }).to_line();
                let event = Text::from(text.clone()).into_event(id.as_deref()).into_bytes();
                stream.push_str(std::str::from_utf8(&event).unwrap());
                stream.push_str(": still here\n\n");
                written.push((id, text));
            }
            let parts = || stream.as_bytes().chunks(cut).map(Bytes::copy_from_slice);
            let mut parser = Parser::new(1 << 20);
            let read: Vec<Event> = parts().flat_map(|part| parser.push(&part).unwrap()).collect();
            let expected: Vec<Event> =
                written.iter().map(|(_, text)| Event { name: "message".to_owned(), data: Bytes::from(text.clone()) }).collect();
            proptest::prop_assert_eq!(read, expected);
            proptest::prop_assert_eq!(parser.last_id, written.iter().rev().find_map(|(id, _)| id.clone()));

            let bytes = futures_util::stream::iter(parts().map(Ok::<_, std::convert::Infallible>));
            let others = SseStream::from_bytes_stream(bytes).filter_map(|event| std::future::ready(event.ok()));
            let others: Vec<_> = others.collect::<Vec<_>>().now_or_never().unwrap();
            let others: Vec<_> = others.into_iter().filter_map(|event| Some((event.id, event.data?))).collect();
            proptest::prop_assert_eq!(others, written);
        }
    }
}
