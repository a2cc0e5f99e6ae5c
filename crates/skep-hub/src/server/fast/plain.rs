//! A connection on the fast path.

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
    http::{Method, Version, header::CONNECTION},
    response::IntoResponse as _,
};
use bytes::{Buf as _, Bytes};
use httpdate::HttpDate;
use skep_mcp::{
    cancel::Cancel,
    framing::SMALL_BYTES,
    server::http::{Content, Fields, Known, Reply, answer_post},
    timer::Timer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::Instant,
};
use ulid::ULID_LEN;

use super::{
    super::{
        connections::HEAD_BYTES_MAX,
        guard::Admits,
        half::Half,
        http::{ALWAYS, REQUEST_ID, Shared, observed, request_id, span},
        problem::{Form, Problem},
    },
    head::{Found, find_head, read_head},
};

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
    /// Bytes of a body; a longer one is for hyper, and so is one that counts against the memory of large ones.
    pub(crate) body_bytes_max: usize,
}

/// A connection, as long as its requests are for the fast path.
pub(crate) struct Plain<'a, S> {
    hub: &'a Shared,
    /// Whose connections are taken here; this one is.
    admits: Admits,
    limits: Limits,
    /// Cancelled when the hub wants to be rid of the connection.
    close: &'a Cancel,
    stream: Half<S>,
    /// What has come in and was not taken yet. A connection that idles has no memory for it.
    buffer: Vec<u8>,
    timer: Timer,
}

/// What came of waiting for more of a request.
enum Received {
    More,
    /// Nothing, within the time.
    TooLate,
    /// The caller sends no more.
    End,
    /// Nothing; the hub closes its connections.
    Closing,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Plain<'a, S> {
    pub(crate) fn new(
        hub: &'a Shared,
        admits: Admits,
        limits: Limits,
        close: &'a Cancel,
        stream: Half<S>,
    ) -> Plain<'a, S> {
        let timer = Timer::new(Instant::now() + limits.head_time_max);
        Plain { hub, admits, limits, close, stream, buffer: Vec::new(), timer }
    }

    /// Answer what is for the fast path. Returns the connection from the first request on that is not; `None` if it has ended.
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
                    Received::More => {}
                    // Whether a part of a head is worth an answer is for hyper to say.
                    Received::End if !self.buffer.is_empty() => return Ok(Some(self.rest())),
                    Received::TooLate | Received::End | Received::Closing => return Ok(None),
                }
            };
            let whole = mem::take(&mut self.buffer);
            let (head, rest) = whole.split_at(head_bytes);
            let Some((headers, body_bytes)) = read_head(head).filter(|(_, bytes)| *bytes <= body_bytes_max) else {
                self.buffer = whole;
                return Ok(Some(self.rest()));
            };
            self.stream.work().begin(Version::HTTP_11);
            let (begun, next) = rest.split_at(rest.len().min(body_bytes));
            let late;
            let body = if begun.len() == body_bytes {
                self.buffer.extend_from_slice(next);
                Ok(begun)
            } else {
                self.buffer.extend_from_slice(begun);
                match self.read_body(body_bytes).await? {
                    Received::More => {
                        let next = self.buffer.split_off(body_bytes);
                        late = mem::replace(&mut self.buffer, next);
                        Ok(&late[..])
                    }
                    Received::TooLate => Err(self.hub.bodies.too_slow()),
                    Received::End | Received::Closing => return Ok(None),
                }
            };
            // The rest of a body that is not waited for any more must not be taken for a request, whatever the answer is.
            let is_last = body.is_err();
            let (hub, mut made) = (self.hub, [0; ULID_LEN]);
            let id = request_id(&headers, &mut made);
            let work = pin!(post_mcp(hub, self.admits, id, &headers, body, &mut known));
            let Some(reply) = self.unless_gone(work).await else { return Ok(None) };
            self.stream.work().end();
            if !self.send(id, reply, is_last).await? {
                return Ok(None);
            }
            if self.buffer.is_empty() {
                self.buffer = Vec::new();
            }
        }
    }

    async fn read_body(&mut self, bytes: usize) -> io::Result<Received> {
        let deadline = Instant::now() + self.limits.body_time_max;
        while self.buffer.len() < bytes {
            match self.read_until(deadline).await? {
                Received::More => {}
                other => return Ok(other),
            }
        }
        Ok(Received::More)
    }

    async fn read_until(&mut self, deadline: Instant) -> io::Result<Received> {
        poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(read.map(|bytes| if bytes == 0 { Received::End } else { Received::More }));
            }
            if self.close.is_cancelled() {
                return Poll::Ready(Ok(Received::Closing));
            }
            self.timer.poll_until(cx, deadline).map(|()| Ok(Received::TooLate))
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

    /// Send an answer, which may be the last one. Returns whether the connection goes on.
    async fn send(&mut self, id: &str, reply: Reply, is_last: bool) -> io::Result<bool> {
        let Reply { status, content_type, headers, mut body } = reply;
        let length = body.size_hint().exact();
        let mut text = Vec::with_capacity(ANSWER_HEAD_BYTES + length.map_or(0, small));
        for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        let says_close = headers.get(CONNECTION).is_some_and(|value| value == "close");
        let is_last = is_last || says_close || self.hub.calls.admission.is_draining();
        let kind = content_type.map(|kind| ("content-type", kind));
        let end = is_last.then_some(("connection", "close"));
        let vary = self.hub.guard.names_origins().then_some(("vary", "origin"));
        for (name, value) in kind.into_iter().chain([(REQUEST_ID, id)]).chain(ALWAYS).chain(vary).chain(end) {
            write_field(&mut text, name, value.as_bytes());
        }
        for (name, value) in headers.iter().filter(|(name, _)| !is_last || *name != CONNECTION) {
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
        let ends = is_last || self.close.is_cancelled();
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

/// Answer a request that was read, or say why its body was not: the same functions as those of the router's layers, in the same
/// order. Whoever writes the answer adds [`REQUEST_ID`] and [`ALWAYS`].
async fn post_mcp(
    hub: &Shared,
    admits: Admits,
    id: &str,
    headers: &Fields<'_>,
    body: Result<&[u8], Problem>,
    known: &mut Known,
) -> Reply {
    const ROUTE: &str = "/mcp";
    let work = async {
        let may_enter = || {
            hub.guard.check_source(None, headers)?;
            let principal = hub.guard.identify(admits, headers)?;
            Ok::<_, Problem>((principal, body?))
        };
        match may_enter() {
            Ok((principal, body)) => answer_post(&hub.mcp.server, headers, body, &principal, None, known).await,
            Err(problem) => problem.into_response().into(),
        }
    };
    observed(span(id, &Method::POST, ROUTE), &Method::POST, ROUTE, Form::Problem, pin!(work)).await
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
#[expect(clippy::disallowed_methods, reason = "a listener is an edge")]
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

/// A connection from the first byte that was not answered.
pub(crate) struct Rest<S> {
    pub(super) first: Bytes,
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
