//! Plain requests: `POST /mcp` without an HTTP server in between. It is the way that calls of tools take, and reading a head,
//! finding a route and writing an answer in general costs as much as everything else that the hub does for such a call.
//!
//! A request is plain if nothing about it is left to decide: HTTP/1.1, a short body whose length is given once, and no header
//! that changes how it is to be read or answered. A connection's first request that is not goes to hyper from its first
//! byte, and all that follow it. So whatever is old, odd, long or wrong is judged in one place, and what is judged here
//! cannot be read in two ways.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, Write as _},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::HttpBody as _,
    http::{Version, header::CONNECTION},
};
use bytes::{Buf as _, Bytes};
use httpdate::HttpDate;
use memchr::memmem;
use skep_mcp::{
    cancel::Cancel,
    server::http::{Content, Fields, Known, Reply},
    timer::Timer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::Instant,
};
use ulid::ULID_LEN;

use super::super::{
    HEAD_BYTES_MAX,
    body::SMALL_BYTES,
    guard::Admits,
    half::Half,
    http::{ALWAYS, Hub, REQUEST_ID, post_mcp, request_id},
};

/// How a plain request begins.
const REQUEST_LINE: &[u8] = b"POST /mcp HTTP/1.1\r\n";
/// Headers that change how a request is to be read or answered. One with an origin comes from a web page, which may have to hear
/// more (CORS).
const DECISIVE: [&str; 7] =
    ["content-length", "connection", "transfer-encoding", "upgrade", "expect", "content-encoding", "origin"];
/// A request with more headers is not plain.
const HEADERS_MAX: usize = 64;
/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;
/// Bytes that a caller may send before it has its answer; the rest waits in the kernel.
const AHEAD_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// A part of a body that is not longer is copied behind the head, to be sent with it.
const COPIED_BYTES_MAX: usize = 8 << 10;
/// Bytes of a head of an answer, as a rule.
const ANSWER_HEAD_BYTES: usize = 512;

/// What a caller may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Time for the whole head of a request, since the connection was opened or its last request answered.
    pub(crate) head_time_max: Duration,
    /// Time for the body, since the head.
    pub(crate) body_time_max: Duration,
    /// Bytes of a body; a longer one is not plain, nor is one that counts against the memory of large ones.
    pub(crate) body_bytes_max: usize,
}

/// A connection, as long as its requests are plain.
pub(crate) struct Plain<'a, S> {
    hub: &'a Hub,
    /// Whose connections are taken here; this one is.
    admits: Admits,
    limits: Limits,
    /// Rung when the hub wants to be rid of the connection.
    close: &'a Cancel,
    stream: Half<S>,
    /// What has come in and was not taken yet. A connection that idles has no memory for it.
    buffer: Vec<u8>,
    timer: Timer,
}

/// What comes in of a request.
enum Came {
    More,
    TooLate,
    /// The connection is over.
    Nothing,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Plain<'a, S> {
    pub(crate) fn new(
        hub: &'a Hub,
        admits: Admits,
        limits: Limits,
        close: &'a Cancel,
        stream: Half<S>,
    ) -> Plain<'a, S> {
        let timer = Timer::new(Instant::now() + limits.head_time_max);
        Plain { hub, admits, limits, close, stream, buffer: Vec::new(), timer }
    }

    /// Answer what is plain. Returns what is left if something else comes; `None` if the connection has ended.
    ///
    /// # Errors
    ///
    /// The connection broke off.
    pub(crate) async fn converse(mut self) -> io::Result<Option<Rest<Half<S>>>> {
        let body_bytes_max = self.limits.body_bytes_max.min(SMALL_BYTES);
        let mut known = Known::default();
        loop {
            let deadline = Instant::now() + self.limits.head_time_max;
            let mut searched = 0;
            let head_bytes = loop {
                match find_head(&self.buffer, &mut searched) {
                    Found::Head(bytes) => break bytes,
                    Found::SomethingElse => return Ok(Some(self.rest())),
                    Found::Part => {}
                }
                match self.read_until(deadline).await? {
                    Came::More => {}
                    Came::TooLate | Came::Nothing => return Ok(None),
                }
            };
            let whole = mem::take(&mut self.buffer);
            let (head, rest) = whole.split_at(head_bytes);
            let Some((headers, body_bytes)) = read_head(head).filter(|(_, bytes)| *bytes <= body_bytes_max) else {
                self.buffer = whole;
                return Ok(Some(self.rest()));
            };
            let (begun, next) = rest.split_at(rest.len().min(body_bytes));
            let late;
            let body = if begun.len() == body_bytes {
                self.buffer.extend_from_slice(next);
                Ok(begun)
            } else {
                self.buffer.extend_from_slice(begun);
                match self.read_body(body_bytes).await? {
                    Came::More => {
                        let next = self.buffer.split_off(body_bytes);
                        late = mem::replace(&mut self.buffer, next);
                        Ok(&late[..])
                    }
                    Came::TooLate => Err(self.hub.bodies.too_slow()),
                    Came::Nothing => return Ok(None),
                }
            };
            let (hub, mut made) = (self.hub, [0; ULID_LEN]);
            let id = request_id(&headers, &mut made);
            self.stream.work().begin(Version::HTTP_11);
            let work = pin!(post_mcp(hub, self.admits, id, &headers, body, &mut known));
            let Some(reply) = self.unless_gone(work).await else { return Ok(None) };
            self.stream.work().end();
            if !self.send(id, reply).await? {
                return Ok(None);
            }
            if self.buffer.is_empty() {
                self.buffer = Vec::new();
            }
        }
    }

    async fn read_body(&mut self, bytes: usize) -> io::Result<Came> {
        let deadline = Instant::now() + self.limits.body_time_max;
        while self.buffer.len() < bytes {
            match self.read_until(deadline).await? {
                Came::More => {}
                other => return Ok(other),
            }
        }
        Ok(Came::More)
    }

    async fn read_until(&mut self, deadline: Instant) -> io::Result<Came> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(read.map(|bytes| if bytes == 0 { Came::Nothing } else { Came::More }));
            }
            if self.close.is_cancelled() {
                return Poll::Ready(Ok(Came::Nothing));
            }
            self.timer.poll_until(cx, deadline).map(|()| Ok(Came::TooLate))
        })
        .await
    }

    /// Put what is there into the buffer; 0 bytes if there will be no more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_local! {
            /// What is read first comes here, so that no connection needs memory before it knows how much.
            static ARRIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
        }
        ARRIVED.with_borrow_mut(|arrived| {
            let mut arrived = ReadBuf::new(arrived);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut arrived))?;
            self.buffer.extend_from_slice(arrived.filled());
            Poll::Ready(Ok(arrived.filled().len()))
        })
    }

    /// Work, as long as the caller is there, though it may have said that it will send nothing more; whatever it sends meanwhile
    /// is kept.
    async fn unless_gone<F: Future>(&mut self, mut work: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            while self.buffer.len() < AHEAD_BYTES_MAX {
                match ready!(self.poll_read(cx)) {
                    Ok(0) | Err(_) => return Poll::Ready(None),
                    Ok(_) => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Send an answer. Returns whether the connection goes on.
    async fn send(&mut self, id: &str, reply: Reply) -> io::Result<bool> {
        let Reply { status, content_type, headers, mut body } = reply;
        let length = body.size_hint().exact();
        let mut text = Vec::with_capacity(ANSWER_HEAD_BYTES + length.map_or(0, small));
        for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        let is_draining = self.hub.calls.admission.is_draining();
        let kind = content_type.map(|kind| ("content-type", kind));
        let end = is_draining.then_some(("connection", "close"));
        for (name, value) in kind.into_iter().chain([(REQUEST_ID, id)]).chain(ALWAYS).chain(end) {
            write_field(&mut text, name, value.as_bytes());
        }
        for (name, value) in headers.iter().filter(|(name, _)| !is_draining || *name != CONNECTION) {
            write_field(&mut text, name.as_str(), value.as_bytes());
        }
        write_date(&mut text);
        match length {
            Some(length) => {
                write_field(&mut text, "content-length", itoa::Buffer::new().format(length).as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            None => text.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        }
        let is_chunked = length.is_none();
        loop {
            let mut next = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
            if next.is_pending() {
                self.write(&mut text, Bytes::new()).await?;
                let Some(frame) = self.unless_gone(pin!(next_frame(&mut body))).await else { return Ok(false) };
                next = Poll::Ready(frame);
            }
            let data = match next {
                Poll::Ready(Some(frame)) => frame.map_err(io::Error::other)?.into_data().unwrap_or_default(),
                _ => break,
            };
            if data.is_empty() {
                continue; // in chunks it would be the end
            }
            if is_chunked {
                write!(text, "{:x}\r\n", data.len())?;
            }
            match data.len() <= COPIED_BYTES_MAX {
                true => text.extend_from_slice(&data),
                false => self.write(&mut text, data).await?,
            }
            if is_chunked {
                text.extend_from_slice(b"\r\n");
                self.write(&mut text, Bytes::new()).await?; // it may be long until the next one
            }
        }
        if is_chunked {
            text.extend_from_slice(b"0\r\n\r\n");
        }
        self.write(&mut text, Bytes::new()).await?;
        let is_last = headers.get(CONNECTION).is_some_and(|value| value == "close");
        let ends = is_draining || is_last || self.close.is_cancelled();
        if ends {
            self.stream.shutdown().await?;
        }
        Ok(!ends)
    }

    /// Send the text, which is empty then, and the data.
    async fn write(&mut self, text: &mut Vec<u8>, data: Bytes) -> io::Result<()> {
        match data.is_empty() {
            true => self.stream.write_all(text).await?,
            false => self.stream.write_all_buf(&mut text.chain(data)).await?,
        }
        text.clear();
        self.stream.flush().await
    }

    fn rest(self) -> Rest<Half<S>> {
        Rest { first: self.buffer.into(), stream: self.stream }
    }
}

async fn next_frame(body: &mut Content) -> Option<Result<hyper::body::Frame<Bytes>, axum::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Write a field of a head.
fn write_field(text: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        text.extend_from_slice(part);
    }
}

/// How much of a body is copied behind the head.
fn small(length: u64) -> usize {
    usize::try_from(length).ok().filter(|length| *length <= COPIED_BYTES_MAX).unwrap_or(0)
}

/// The time of the answer (RFC 9110, 6.6.1), which is written once a second.
#[expect(clippy::disallowed_methods, reason = "a door is an edge")]
fn write_date(text: &mut Vec<u8>) {
    thread_local! {
        static WRITTEN: RefCell<(u64, String)> = RefCell::default();
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    WRITTEN.with_borrow_mut(|(written, line)| {
        if *written != second || line.is_empty() {
            (*written, *line) = (second, format!("date: {}\r\n", HttpDate::from(now)));
        }
        text.extend_from_slice(line.as_bytes());
    });
}

/// How a connection goes on.
enum Found {
    /// With a head that may be plain's, of so many bytes.
    Head(usize),
    /// With a part of such a head.
    Part,
    SomethingElse,
}

/// Look for the end of a head. `searched`: how far it was looked for before.
fn find_head(buffer: &[u8], searched: &mut usize) -> Found {
    const END: &[u8] = b"\r\n\r\n";
    let begins = buffer.len().min(REQUEST_LINE.len());
    if buffer[..begins] != REQUEST_LINE[..begins] {
        return Found::SomethingElse;
    }
    let from = searched.saturating_sub(END.len() - 1);
    match memmem::find(&buffer[from..], END) {
        Some(at) => Found::Head(from + at + END.len()),
        None if buffer.len() > HEAD_BYTES_MAX => Found::SomethingElse,
        None => {
            *searched = buffer.len();
            Found::Part
        }
    }
}

/// The headers of a plain request, and the length of its body; `None` if it is not plain.
fn read_head(head: &[u8]) -> Option<(Fields<'_>, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let lines = head.get(REQUEST_LINE.len()..)?;
    let fields = match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((bytes, fields))) if bytes == lines.len() => fields,
        _ => return None,
    };
    let mut length = None;
    for field in fields.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") && length.is_none() {
            length = Some(read_length(field.value)?);
            continue;
        }
        let stays_open = is("connection") && field.value.eq_ignore_ascii_case(b"keep-alive");
        if !stays_open && DECISIVE.into_iter().any(is) {
            return None;
        }
    }
    Some((fields.iter().map(|field| (field.name, field.value)).collect(), length?))
}

fn read_length(value: &[u8]) -> Option<usize> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// A connection from the first byte that was not answered.
pub(crate) struct Rest<S> {
    first: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rest<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let bytes = self.first.len().min(into.remaining());
        into.put_slice(&self.first.split_to(bytes));
        if self.first.is_empty() {
            self.first = Bytes::new(); // frees what it was a part of
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rest<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(headers: &str) -> Bytes {
        Bytes::from([std::str::from_utf8(REQUEST_LINE).unwrap(), headers, "\r\n"].concat())
    }

    #[test]
    fn a_head_is_found_whole_wherever_it_is_cut() {
        let whole = [&head("host: a\r\ncontent-length: 2\r\n")[..], b"{}"].concat();
        let (mut searched, bytes) = (0, whole.len() - 2);
        for cut in 0..bytes {
            assert!(matches!(find_head(&whole[..cut], &mut searched), Found::Part), "{cut}");
        }
        for cut in bytes..=whole.len() {
            assert!(matches!(find_head(&whole[..cut], &mut 0), Found::Head(found) if found == bytes));
            assert!(matches!(find_head(&whole[..cut], &mut searched.clone()), Found::Head(found) if found == bytes));
        }
    }

    #[test]
    fn what_does_not_begin_as_a_plain_request_is_seen_at_its_first_byte() {
        for other in
            ["GET / HTTP/1.1\r\n", "POST /mcp?a HTTP/1.1\r\n", "POST /mcp HTTP/1.0\r\n", "\r\nPOST", "\x16\x03", "post"]
        {
            assert!(matches!(find_head(other.as_bytes(), &mut 0), Found::SomethingElse), "{other:?}");
        }
        let endless = [REQUEST_LINE, &[b'a'; HEAD_BYTES_MAX]].concat();
        assert!(matches!(find_head(&endless, &mut 0), Found::SomethingElse));
    }

    #[test]
    fn a_plain_request_keeps_its_headers() {
        let head = head("Host: a\r\nX: 1\r\nx: 2\r\nContent-Length: 17\r\nConnection: Keep-Alive\r\n");
        let (headers, length) = read_head(&head).unwrap();
        assert_eq!((headers.text("host"), length), (Some("a"), 17));
        assert!(headers.all("x").eq([b"1", b"2"]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_plain() {
        let many = "a: 1\r\n".repeat(HEADERS_MAX);
        for headers in [
            "",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1\r\nContent-Length: 2\r\n",
            "content-length: 1, 1\r\n",
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 0x1\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999999\r\n",
            "content-length : 1\r\n",
            "content-length: 1\r\n folded: 1\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\n",
            "content-length: 1\r\nconnection: close\r\n",
            "content-length: 1\r\nconnection: keep-alive, upgrade\r\n",
            "content-length: 1\r\nupgrade: h2c\r\n",
            "content-length: 1\r\nexpect: 100-continue\r\n",
            "content-length: 1\r\ncontent-encoding: gzip\r\n",
            "content-length: 1\r\norigin: http://localhost\r\n",
            "content-length: 1\r\na b: 1\r\n",
            "content-length: 1\r\na: \x01\r\n",
            "content-length: 1\r\na: \x7f\r\n",
            &format!("content-length: 1\r\n{many}"),
        ] {
            assert!(read_head(&head(headers)).is_none(), "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn the_length_of_a_body_is_said_once(
            fields in prop::collection::vec(
                prop_oneof![
                    "(?i)content-length: ?[0-9+, ]{0,3}",
                    "(?i)transfer-encoding: (chunked|identity)",
                    "[a-z-]{1,8}: [ -~]{0,8}",
                    "[\\x00-\\x7f]{0,12}",
                ],
                0..8,
            ),
            newline in "(\r\n|\n|\r)",
        ) {
            let text: String = fields.iter().map(|field| format!("{field}{newline}")).collect();
            if let Some((headers, length)) = read_head(&head(&text)) {
                let said: Vec<_> = headers.all("content-length").map(|said| std::str::from_utf8(said).unwrap()).collect();
                prop_assert_eq!(said.len(), 1);
                prop_assert!(said[0].bytes().all(|byte| byte.is_ascii_digit()), "{said:?}"); // `00` is 0
                prop_assert_eq!(said[0].parse(), Ok(length));
                prop_assert!(!headers.has("transfer-encoding"));
            }
        }
    }
}
