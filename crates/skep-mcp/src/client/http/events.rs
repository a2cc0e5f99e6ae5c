//! Server-sent events: a stream of text, bounded.

use std::time::Duration;

use bytes::Bytes;

use super::super::CallError;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// What kind; empty means `message`.
    pub(super) name: String,
    /// What it says.
    pub(super) data: String,
}

/// Reads events from the parts of a body.
pub(super) struct Parser {
    /// What belongs to no whole line yet.
    rest: Vec<u8>,
    event: Event,
    bytes_max: usize,
    /// The last event's id, by which a stream is continued.
    pub(super) last_id: Option<String>,
    /// How long to wait before that, as the server wants it.
    pub(super) retry: Option<Duration>,
}

impl Parser {
    pub(super) fn new(bytes_max: usize) -> Parser {
        Parser { rest: Vec::new(), event: Event::default(), bytes_max, last_id: None, retry: None }
    }

    /// Take a part of the body; the events that it completes.
    pub(super) fn push(&mut self, part: &Bytes) -> Result<Vec<Event>, CallError> {
        let mut events = Vec::new();
        let mut part = &part[..];
        while let Some(end) = part.iter().position(|&byte| byte == b'\n') {
            self.fits(end)?;
            self.rest.extend_from_slice(&part[..end]);
            part = &part[end + 1..];
            let line = std::mem::take(&mut self.rest);
            events.extend(self.line(&line));
        }
        self.fits(part.len())?;
        self.rest.extend_from_slice(part);
        Ok(events)
    }

    fn fits(&self, more: usize) -> Result<(), CallError> {
        if self.event.data.len() + self.rest.len() + more <= self.bytes_max {
            return Ok(());
        }
        Err(CallError::Protocol(format!("an event is longer than {} bytes", self.bytes_max)))
    }

    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if event.data.ends_with('\n') {
                event.data.pop();
            }
            return (!event.data.is_empty()).then_some(event); // without data it only carried an id
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                self.event.data.push_str(value);
                self.event.data.push('\n');
            }
            "id" => self.last_id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis),
            _ => {} // a comment, or something unknown
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\r\nid: 1\r\ndata:\r\n\r\nevent: endpoint\ndata: /m?a=b\n\nid: 7\nretry: 250\ndata: {\"a\":\ndata: 1}\n\ndata: cut";

    #[test]
    fn events_are_the_same_however_the_body_is_cut() {
        let whole = Parser::new(1000).push(&Bytes::from(STREAM)).unwrap();
        assert_eq!(whole[0], Event { name: "endpoint".to_owned(), data: "/m?a=b".to_owned() });
        assert_eq!(whole[1].data, "{\"a\":\n1}");
        assert_eq!(whole.len(), 2, "an event that did not end is none");
        let mut parser = Parser::new(1000);
        let bytes: Vec<Event> =
            STREAM.bytes().flat_map(|byte| parser.push(&Bytes::from(vec![byte])).unwrap()).collect();
        assert_eq!(bytes, whole);
        assert_eq!((parser.last_id.as_deref(), parser.retry), (Some("7"), Some(Duration::from_millis(250))));
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
            body in proptest::collection::vec(proptest::sample::select(&b"\n\n\r: dataevnti\x80\xc3{"[..]), 0..200),
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
    }
}
