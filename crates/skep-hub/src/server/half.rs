//! Callers that have ended their side of the connection.
//!
//! `nc -N` and others say with their request that it was the last (FIN), and wait for the answer. A
//! caller that is gone says just the same, and its call is to be cancelled. The two differ in what
//! becomes of something that is sent to them: who waits takes it; for who is gone, the kernel
//! refuses it (RST), and the next thing that is sent fails. So while such a caller waits for its
//! answer, it is sent an interim one now and then, of which HTTP allows any number (RFC 9110,
//! 15.2).
//!
//! Once an answer has begun, its own bytes do the same. A stream of events is over when the
//! caller's side is: nobody knows when it has its next byte.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Response, Version, header::CONTENT_TYPE},
};
use hyper::body::{Frame, SizeHint};
use skep_mcp::timer::Timer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::connections::Open;

/// What a caller is sent to find out whether it is there.
const INTERIM: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";
/// When it is sent first and again, after the end of the caller's side; and then again and again.
const FIRST_AFTER: Duration = Duration::from_millis(100);
const AGAIN_AFTER: Duration = Duration::from_millis(300);
const EVERY: Duration = Duration::from_secs(5);

/// What the hub does on a connection; shared by the connection and by what answers.
#[derive(Clone, Default)]
pub(super) struct Work(Arc<AtomicU8>);

/// Nothing that could not end with the caller's side.
const IDLE: u8 = 0;
/// An answer is being made, for which the caller may wait.
const ANSWERING: u8 = 1;
/// The same, and nothing may be sent before it: it has begun, or the caller knows no interim
/// answers (HTTP/1.0).
const IN_SILENCE: u8 = 2;

impl Work {
    /// A request has come.
    pub(super) fn begin(&self, version: Version) {
        let work = if version < Version::HTTP_11 { IN_SILENCE } else { ANSWERING };
        self.0.store(work, Ordering::Relaxed);
    }

    /// Its answer is made, or goes on as a stream.
    pub(super) fn end(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    /// Something of the answer is written.
    fn write(&self) {
        let _ = self.0.compare_exchange(ANSWERING, IN_SILENCE, Ordering::Relaxed, Ordering::Relaxed); // else as it was
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// The answer, which ends the work when it is made.
    pub(super) fn until_made(&self, answer: Response<Body>) -> Response<Body> {
        let kind = answer.headers().get(CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            self.end();
            return answer;
        }
        let work = self.clone();
        answer.map(|body| Body::new(Made { body, work }))
    }
}

/// A body that ends the work when it is made, or not wanted any more.
struct Made {
    body: Body,
    work: Work,
}

impl HttpBody for Made {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.work.end();
    }
}

/// A connection that does not end with the caller's side while the caller may wait for an answer.
pub(super) struct Half<S> {
    stream: S,
    work: Work,
    ended: Option<Ended>,
    /// Something is written that the caller's side has no room for now.
    is_blocked: bool,
    /// Kept while the connection lives, also when it speaks another protocol by now.
    _open: Option<Open>,
}

/// The caller's side has ended.
struct Ended {
    timer: Timer,
    /// When the next interim answer is due, and how many were sent.
    next: Instant,
    sent: u32,
    /// What is left of the one that is being sent.
    left: &'static [u8],
}

impl<S> Half<S> {
    pub(super) fn new(stream: S) -> Half<S> {
        Half { stream, work: Work::default(), ended: None, is_blocked: false, _open: None }
    }

    /// The same, which keeps this for as long as it lives.
    pub(super) fn holding(self, open: Open) -> Half<S> {
        Half { _open: Some(open), ..self }
    }

    pub(super) fn work(&self) -> &Work {
        &self.work
    }
}

impl<S: AsyncWrite + Unpin> Half<S> {
    /// Find out whether the caller is there: ready with an error when it is not.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let may_ask = self.work.now() == ANSWERING;
        let Some(ended) = &mut self.ended else { return Poll::Pending };
        loop {
            while !ended.left.is_empty() {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, ended.left)) {
                    Ok(0) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                    Ok(bytes) => ended.left = &ended.left[bytes..],
                    Err(error) => return Poll::Ready(error),
                }
            }
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                return Poll::Ready(error);
            }
            if !may_ask {
                return Poll::Pending;
            }
            ready!(ended.timer.poll_until(cx, ended.next));
            ended.next = Instant::now() + if ended.sent == 0 { AGAIN_AFTER } else { EVERY };
            ended.sent += 1;
            ended.left = INTERIM;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Half<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let half = &mut *self;
        if half.ended.is_none() {
            let before = into.filled().len();
            ready!(Pin::new(&mut half.stream).poll_read(cx, into))?;
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let next = Instant::now() + FIRST_AFTER;
            half.ended = Some(Ended { timer: Timer::new(next), next, sent: 0, left: b"" });
        }
        match half.work.now() {
            // Whoever writes has the rest of an answer, and would drop it with the connection; it is woken when there is room.
            IDLE if half.is_blocked => Poll::Pending,
            IDLE => Poll::Ready(Ok(())), // the end
            _ => half.poll_gone(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Half<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_finish_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.is_blocked = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_finish_interim(cx))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.is_blocked = written.is_pending();
        written
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

impl<S: AsyncWrite + Unpin> Half<S> {
    /// The answer begins; an interim one that was begun is sent whole before.
    fn poll_finish_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.work.write();
        if let Some(ended) = &mut self.ended {
            while !ended.left.is_empty() {
                let bytes = ready!(Pin::new(&mut self.stream).poll_write(cx, ended.left))?;
                if bytes == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                ended.left = &ended.left[bytes..];
            }
        }
        Poll::Ready(Ok(()))
    }
}
