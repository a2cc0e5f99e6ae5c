//! HTTP/1.1 to a server that is reached directly and without TLS, as those on the same machine are.
//!
//! Most calls by the gateway go this way, and in a client for all purposes it is half of what they cost: there a connection has
//! a task of its own, so that every call wakes two more tasks and its data moves between processors, and each request's headers
//! are a table that is built, copied and written out. Here the call drives the connection itself; what is the same in all
//! requests is written once ([`Head`]); and an answer is taken out of the connection's buffer without being copied.
//!
//! It knows one request at a time, answered in full or given up. What else there is (TLS, proxies, other resolvers, redirects,
//! compressed answers, later versions of HTTP) is the general client's.
//!
//! **A connection is used again only after an answer that has ended** exactly where it said, with nothing behind it, to a request
//! that was sent in full. After an error, and when the call or the answer is dropped before its end, it is closed: nobody gets what
//! was meant for another (`answer.rs`). Connections that nobody uses wait in a list; whether they still live is seen when they are
//! taken.
//!
//! **A request is sent again only if no byte of it was sent.** Such a one was not acted upon. Of one that was begun, a server may have
//! read everything before it closed the connection, and a call is not known to be harmless twice (RFC 9110, 9.2.2; RFC 9112, 9.3.1).

mod answer;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use reqwest::{Method, Url};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use self::answer::{Body, HEAD_BYTES_MAX};

/// Connections that wait for their next call.
const IDLE_MAX: usize = 64;
/// One that waited so long is not used again: the server may be about to close it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// Time that an answer may take to end, when nobody waits for its end but its connection could be used again.
const ENDING_TIME_MAX: Duration = Duration::from_millis(250);
/// Bytes that may come until then.
const ENDING_BYTES_MAX: usize = 64 << 10;
/// Time that connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a connection's buffer; those of most answers, several times.
const BUFFER_SIZE: usize = 16 << 10;
/// The same where an answer is known to be long.
const BUFFER_SIZE_MAX: usize = 64 << 10;
/// A body that is not longer is copied behind its head.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// With less room than this nothing is read.
const ROOM_MIN: usize = 4 << 10;

/// A server, and the connections with it.
pub(super) struct Direct {
    host: String,
    port: u16,
    /// What goes into `Host`.
    authority: String,
    /// What is asked for.
    path: String,
    idle: Mutex<Vec<Idle>>,
    /// Wait for the ends of answers: [`IDLE_MAX`] at most, and not for long.
    ending: TaskTracker,
}

/// A connection that nobody uses.
struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// The beginning of requests, as it is sent: their method, and the headers that all of them have.
#[derive(Clone)]
pub(super) struct Head {
    text: Bytes,
    /// Whether answers to this method have a body.
    is_answered_with_body: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: String,
    /// The server has seen nothing of it.
    is_unsent: bool,
}

impl Direct {
    /// `None` for an address that needs more than this.
    pub(super) fn new(url: &Url) -> Option<Arc<Direct>> {
        if url.scheme() != "http" || !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        let query = url.query().map_or(String::new(), |query| format!("?{query}"));
        let path = format!("{}{query}", url.path());
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let (authority, port) = (url.authority().to_owned(), url.port_or_known_default()?);
        let is_writable = is_plain(&path) && is_plain(&authority);
        let (idle, ending) = (Mutex::default(), TaskTracker::new());
        is_writable.then(|| Arc::new(Direct { host, port, authority, path, idle, ending }))
    }

    /// The beginning of requests with this method and these headers. Where a request ends is not for headers to say.
    pub(super) fn head(&self, method: &Method, headers: &HeaderMap) -> Head {
        let mut text = format!("{method} {} HTTP/1.1\r\n", self.path).into_bytes();
        if !headers.contains_key(HOST) {
            write_header(&mut text, HOST.as_str(), self.authority.as_bytes());
        }
        for (name, value) in headers {
            if ![CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
                write_header(&mut text, name.as_str(), value.as_bytes());
            }
        }
        Head { text: text.into(), is_answered_with_body: *method != Method::HEAD }
    }

    /// Send a request, with these headers besides. Dropping the future, or the response before its end, closes the connection.
    pub(super) async fn send<'m>(
        self: &Arc<Self>,
        head: &Head,
        more: impl Iterator<Item = (&'m str, &'m [u8])> + Clone,
        body: &Bytes,
    ) -> Result<Response, Failed> {
        // A server may close a connection in the moment in which it is taken.
        while let Some(link) = self.take() {
            match self.ask(link, head, more.clone(), body).await {
                Err(Failed { is_unsent: true, .. }) => {}
                answered => return answered,
            }
        }
        let link = self.connect().await.map_err(|error| Failed { reason: error.to_string(), is_unsent: true })?;
        self.ask(link, head, more, body).await
    }

    /// A connection that is alive.
    fn take(&self) -> Option<Box<Link>> {
        loop {
            let Idle { link, since } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() < IDLE_TIME_MAX && link.is_alive() {
                return Some(link);
            }
        }
    }

    fn put_back(&self, link: Box<Link>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_old = |idle: &Idle| now - idle.since >= IDLE_TIME_MAX;
        if idle.first().is_some_and(is_old) {
            idle.retain(|idle| !is_old(idle)); // the oldest is the first
        }
        if idle.len() < IDLE_MAX {
            idle.push(Idle { link, since: now });
        }
    }

    /// Use none of the connections again that wait for their next call.
    pub(super) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn connect(&self) -> io::Result<Box<Link>> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT_TIME_MAX, connecting).await??;
        stream.set_nodelay(true)?;
        let (input, head, body) = (BytesMut::new(), Vec::new(), Bytes::new());
        Ok(Box::new(Link { stream, input, head, body, sent: 0, is_cut: false }))
    }

    async fn ask<'m>(
        self: &Arc<Self>,
        mut link: Box<Link>,
        head: &Head,
        more: impl Iterator<Item = (&'m str, &'m [u8])> + Clone,
        body: &Bytes,
    ) -> Result<Response, Failed> {
        link.begin(head, more, body);
        let mut left = HEAD_BYTES_MAX;
        let answered = poll_fn(|cx| link.poll_answer(cx, &mut left, head.is_answered_with_body));
        let answered = answered.await;
        let head = answered.map_err(|reason| Failed { reason, is_unsent: link.sent == 0 })?;
        let mut response = Response { head, link: Some(link), home: Arc::clone(self) };
        response.let_go_at_end();
        Ok(response)
    }
}

/// Write a line of a head.
fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// A connection.
struct Link {
    stream: TcpStream,
    /// What has come in and was not taken.
    input: BytesMut,
    /// The head of the request, and its body if that is short.
    head: Vec<u8>,
    /// The body of the request otherwise.
    body: Bytes,
    /// Bytes of the two that are sent.
    sent: usize,
    /// The server takes no more of the request.
    is_cut: bool,
}

impl Link {
    /// Whether it can take a request. What came in while nobody waited for anything is not of this use; neither is its end.
    fn is_alive(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether it can be used again, after an answer.
    fn is_clean(&self) -> bool {
        !self.is_cut && self.sent == self.head.len() + self.body.len() && self.input.is_empty()
    }

    fn begin<'m>(&mut self, head: &Head, more: impl Iterator<Item = (&'m str, &'m [u8])>, body: &Bytes) {
        self.head.clear();
        self.head.extend_from_slice(&head.text);
        for (name, value) in more {
            write_header(&mut self.head, name, value);
        }
        if !body.is_empty() {
            let mut digits = itoa::Buffer::new();
            write_header(&mut self.head, CONTENT_LENGTH.as_str(), digits.format(body.len()).as_bytes());
        }
        self.head.extend_from_slice(b"\r\n");
        // A short body is sent from one piece of memory with the head, which is less work for the kernel.
        if body.len() <= COPIED_BYTES_MAX {
            self.head.extend_from_slice(body);
        } else {
            self.body.clone_from(body);
        }
        self.sent = 0;
    }

    /// Send what is left of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.head.len() + self.body.len() {
            let of_body = self.sent.saturating_sub(self.head.len());
            let of_head = self.sent.min(self.head.len());
            let (head, body) = (&self.head[of_head..], &self.body[of_body..]);
            let stream = Pin::new(&mut self.stream);
            let sent = match body.is_empty() {
                true => stream.poll_write(cx, head),
                false => stream.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            self.sent += match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => bytes,
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Read, where so much is known to come; how many bytes came, and 0 at the end. What is left of the request is sent
    /// meanwhile: a server may answer before it has read it all, and one that wants no more of it may still say why.
    fn poll_read(&mut self, cx: &mut Context<'_>, announced: usize) -> Poll<io::Result<usize>> {
        if !self.is_cut
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            self.is_cut = true;
            if self.sent == 0 {
                return Poll::Ready(Err(error));
            }
        }
        if self.sent == 0 {
            return Poll::Pending; // what comes now answers something else
        }
        let room = self.input.capacity() - self.input.len();
        if room < announced.clamp(ROOM_MIN, BUFFER_SIZE_MAX) {
            self.input.reserve(announced.clamp(BUFFER_SIZE, BUFFER_SIZE_MAX)); // the same memory, if it is free again
        }
        pin!(self.stream.read_buf(&mut self.input)).poll(cx)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        left: &mut usize,
        has_body: bool,
    ) -> Poll<Result<answer::Head, String>> {
        loop {
            if let Some(head) = answer::Head::take(&mut self.input, left, has_body)? {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_read(cx, 0)).map_err(|error| error.to_string())? == 0 {
                return Poll::Ready(Err("the server closed the connection".to_owned()));
            }
        }
    }
}

/// An answer, whose body comes as it is asked for.
pub(super) struct Response {
    head: answer::Head,
    /// The connection that it comes on, until one of the two ends.
    link: Option<Box<Link>>,
    home: Arc<Direct>,
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn is_event_stream(&self) -> bool {
        self.head.is_event_stream
    }

    /// The first header of this name.
    pub(super) fn header(&self, name: &str) -> Option<&[u8]> {
        self.head.header(name)
    }

    /// All headers of this name.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.head.headers(name)
    }

    /// Bytes of the body that are known to come.
    pub(super) fn announced(&self) -> usize {
        self.head.body.announced()
    }

    /// The next part of the body; `None` after the last one. After an error there is nothing more.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        if self.head.body.has_ended() {
            return Ok(None);
        }
        let chunk = self.next().await;
        if chunk.is_err() {
            self.link = None;
        }
        chunk
    }

    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let Some(link) = &mut self.link else { return Err("the answer broke off".to_owned()) };
            let part = self.head.body.take(&mut link.input)?;
            self.let_go_at_end();
            let Some(link) = self.link.as_mut().filter(|_| part.is_none()) else { return Ok(part) };
            let announced = self.head.body.announced();
            let read = poll_fn(|cx| link.poll_read(cx, announced)).await.map_err(|error| error.to_string())?;
            if read == 0 {
                self.head.body.close()?;
                self.link = None;
                return Ok(None);
            }
        }
    }

    /// The whole body, if it says that it is not longer than this: it is read into one piece of memory, and not copied from there.
    /// `None` for any other, whose parts are to be taken.
    pub(super) async fn whole(&mut self, bytes_max: usize) -> Result<Option<Bytes>, String> {
        let bytes = match self.head.body {
            Body::Length(bytes) => usize::try_from(bytes).ok().filter(|bytes| (1..=bytes_max).contains(bytes)),
            _ => None,
        };
        let (Some(bytes), Some(link)) = (bytes, &mut self.link) else { return Ok(None) };
        if let Some(missing) = bytes.checked_sub(link.input.len()).filter(|missing| *missing > 0) {
            link.input.reserve(missing + ROOM_MIN);
        }
        while link.input.len() < bytes {
            let missing = bytes - link.input.len();
            let fault = match poll_fn(|cx| link.poll_read(cx, missing)).await {
                Ok(0) => self.head.body.close().err().unwrap_or_default(),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            self.link = None;
            return Err(fault);
        }
        let whole = link.input.split_to(bytes).freeze();
        if bytes > BUFFER_SIZE_MAX {
            link.input = BytesMut::from(&link.input[..]); // not a part of so much memory
        }
        self.head.body = Body::ENDED;
        self.let_go_at_end();
        Ok(Some(whole))
    }

    /// Nothing more of it is wanted. Many servers end a stream right behind the answer: a connection on which that comes soon is
    /// used again, any other is closed.
    pub(super) fn release(mut self) {
        let has_ended = self.rest().now_or_never().is_some();
        if !has_ended && !self.head.is_last && self.home.ending.len() < IDLE_MAX {
            let ending = self.home.ending.clone();
            ending.spawn(async move { timeout(ENDING_TIME_MAX, self.rest()).await.is_ok() });
        }
    }

    /// Read to the end, if that is not far. Else the connection is closed with the answer.
    async fn rest(&mut self) {
        let mut left = ENDING_BYTES_MAX;
        while let Ok(Some(part)) = self.chunk().await {
            let Some(less) = left.checked_sub(part.len()) else { return };
            left = less;
        }
    }

    /// Let the connection go once the answer has ended.
    fn let_go_at_end(&mut self) {
        if self.head.body.has_ended()
            && let Some(mut link) = self.link.take()
            && !self.head.is_last
            && link.is_clean()
        {
            link.body = Bytes::new();
            self.home.put_back(link);
        }
    }
}
