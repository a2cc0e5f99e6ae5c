//! HTTP to a server that is reached directly and without TLS, as those on the same machine are.
//!
//! A connection is driven by the call that uses it, in the call's own task. In a client for all purposes it has a task of its
//! own, which costs every call two more wake-ups and its data a way between processors: half of what a call by the gateway
//! costs in all. Connections that nobody uses wait in a list; whether they still live is seen when they are taken.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header::HOST, response::Parts},
};
use bytes::Bytes;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use reqwest::{Method, Url};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

/// Connections that wait for their next call.
const IDLE_MAX: usize = 64;
/// One that waited so long is not used again: the server may be about to close it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// Time that connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// A server, and the connections with it.
pub(super) struct Direct {
    host: String,
    port: u16,
    /// What goes into `Host`.
    authority: HeaderValue,
    /// What is asked for.
    path: Uri,
    idle: Mutex<Vec<Idle>>,
}

/// A connection that nobody uses.
struct Idle {
    link: Link,
    since: Instant,
}

struct Link {
    sender: SendRequest<Body>,
    driver: Pin<Box<Connection<TokioIo<TcpStream>, Body>>>,
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
        let authority = HeaderValue::from_str(url.authority()).ok()?;
        let query = url.query().map_or(String::new(), |query| format!("?{query}"));
        let path = format!("{}{query}", url.path()).parse().ok()?;
        let port = url.port_or_known_default()?;
        Some(Arc::new(Direct { host, port, authority, path, idle: Mutex::default() }))
    }

    /// Send a request. Dropping the future, or the response before its end, closes the connection.
    pub(super) async fn send(
        self: &Arc<Self>,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Failed> {
        // A server may close a connection in the moment in which it is taken.
        while let Some(link) = self.take().await {
            match self.ask(link, method, headers, body).await {
                Err(Failed { is_unsent: true, .. }) => {}
                answered => return answered,
            }
        }
        let link = self.connect().await.map_err(|error| Failed { reason: error.to_string(), is_unsent: true })?;
        self.ask(link, method, headers, body).await
    }

    /// A connection that is alive.
    async fn take(&self) -> Option<Link> {
        loop {
            let Idle { mut link, since } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() < IDLE_TIME_MAX && link.is_alive().await {
                return Some(link);
            }
        }
    }

    fn put_back(&self, link: Link) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|idle| now - idle.since < IDLE_TIME_MAX);
        if idle.len() < IDLE_MAX {
            idle.push(Idle { link, since: now });
        }
    }

    async fn connect(&self) -> io::Result<Link> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT_TIME_MAX, connecting).await??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Link { sender, driver: Box::pin(driver) })
    }

    async fn ask(
        self: &Arc<Self>,
        mut link: Link,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response, Failed> {
        let mut request = Request::new(Body::from(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.path.clone();
        request.headers_mut().clone_from(headers);
        request.headers_mut().insert(HOST, self.authority.clone());
        let mut answer = Box::pin(link.sender.send_request(request));
        let driver = &mut link.driver;
        let mut ended = None;
        let answered = poll_fn(|cx| {
            if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answered));
            }
            if ended.is_some() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(end) = driver.as_mut().poll(cx) {
                ended = Some(end);
            }
            // What has just come in is taken at once.
            match answer.as_mut().poll(cx) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending if ended.is_some() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let answered = answered.await;
        drop(answer);
        let failed = |error: &hyper::Error| Failed { reason: causes(error), is_unsent: error.is_canceled() };
        match (answered, ended) {
            (Some(Ok(response)), ended) => {
                let (head, body) = response.into_parts();
                let mut link = ended.is_none().then_some(link);
                if body.is_end_stream() {
                    link.take().into_iter().for_each(|link| self.put_back(link));
                }
                Ok(Response { head, body, link, home: Arc::clone(self) })
            }
            (Some(Err(error)), _) | (None, Some(Err(error))) => Err(failed(&error)),
            (None, _) => Err(Failed { reason: "the server closed the connection".to_owned(), is_unsent: false }),
        }
    }
}

impl Link {
    /// Whether it can take a request.
    async fn is_alive(&mut self) -> bool {
        let Link { sender, driver } = self;
        poll_fn(|cx| {
            if driver.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            Poll::Ready(matches!(sender.poll_ready(cx), Poll::Ready(Ok(()))))
        })
        .await
    }
}

/// The whole chain: what hyper says first is only what it was doing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// An answer, whose body comes as it is asked for.
pub(super) struct Response {
    head: Parts,
    body: Incoming,
    /// The connection that it comes on, until one of the two ends.
    link: Option<Link>,
    home: Arc<Direct>,
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The next part of the body; `None` after the last one.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let Response { body, link, .. } = self;
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
                    return Poll::Ready(frame);
                }
                if let Some(driven) = link
                    && driven.driver.as_mut().poll(cx).is_ready()
                {
                    *link = None;
                }
                Pin::new(&mut *body).poll_frame(cx)
            });
            match frame.await {
                None => {
                    if let Some(link) = self.link.take() {
                        self.home.put_back(link);
                    }
                    return Ok(None);
                }
                Some(Err(error)) => return Err(causes(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    } // else trailers, which say nothing here
                }
            }
        }
    }
}
