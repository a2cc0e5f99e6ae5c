//! One connection: taken from a listener, counted, made safe (TLS), answered by the fast path or the router, and closed.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use skep_mcp::{cancel::Cancel, pace::Paced};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Options, Tls, cors,
    fast::{self, in_place},
    guard::{self, Admits},
    half::{Half, Work},
    http::{self, Shared},
    peer, problem,
    refusal::{REFUSALS_AT_ONCE_MAX, Refusal},
};

/// Bytes of a request's head, and of what a connection reads ahead. A connection that idles has taken none of them.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Time that connections get at the end to take their last answer.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// A connection that was silent for so long is asked whether the other side is still there, and then every
/// `KEEPALIVE_EVERY`; what does not acknowledge that for [`Options::write_time_max`] has gone without a word.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// See `KEEPALIVE_AFTER`.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Pause after the system refused a new connection, most often for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What listens.
pub(super) trait Listen {
    type Stream: Stream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;
}

/// A connection as it was accepted.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The user of this machine who made the other end.
    fn user(&self) -> io::Result<u32>;

    /// Have the kernel see to what it can.
    fn prepare(&self, write_time_max: Duration) -> io::Result<()>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

impl Stream for TcpStream {
    fn user(&self) -> io::Result<u32> {
        peer::user_of(self.peer_addr()?, self.local_addr()?)
    }

    fn prepare(&self, write_time_max: Duration) -> io::Result<()> {
        prepare(self, write_time_max)
    }
}

impl Stream for UnixStream {
    fn user(&self) -> io::Result<u32> {
        Ok(self.peer_cred()?.uid())
    }

    fn prepare(&self, _: Duration) -> io::Result<()> {
        Ok(()) // nothing is held back here, and the other side does not go without a word; what it does not take is seen above
    }
}

/// Take connections until `stop` is cancelled.
pub(super) async fn accept<L: Listen, F>(
    listener: L,
    admit: impl Fn(L::Stream) -> Option<F>,
    tasks: TaskTracker,
    stop: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(accepted) = stop.run_until_cancelled(poll_fn(|cx| listener.poll_accept(cx))).await {
        match accepted {
            Ok(stream) => {
                if let Some(connection) = admit(stream) {
                    tasks.spawn(connection);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
}

/// What all connections share.
pub(super) struct Connections {
    /// Whose they may be.
    admits: Admits,
    pub(super) hub: Arc<Shared>,
    pub(super) router: Router,
    /// Says that there are too many.
    overfull: Router,
    /// Says that the caller is not one whom this hub answers.
    unwelcome: Router,
    builder: http1::Builder,
    open: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    tls: Option<Tls>,
    limits: fast::Limits,
    write_time_max: Duration,
    close: Arc<Cancel>,
}

impl Connections {
    pub(super) fn new(
        admits: Admits,
        hub: Arc<Shared>,
        options: &Options,
        open: Arc<Semaphore>,
        close: Arc<Cancel>,
    ) -> Connections {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(options.head_time_max);
        builder.max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
        let message =
            format!("{} connections are open, and no more are taken; try again in a moment", options.connections_max);
        let overfull = problem::Problem::busy(problem::Kind::TooManyConnections, message);
        let refusing = |problem: problem::Problem| {
            let router = Router::new().fallback(async move |request: Request| problem::refuse(&request, problem));
            router.layer(axum::middleware::from_fn_with_state(Arc::clone(&hub), cors::share_refusals))
        };
        let (overfull, unwelcome) = (refusing(overfull), refusing(guard::stranger()));
        let limits = fast::Limits {
            head_time_max: options.head_time_max,
            body_time_max: options.body_time_max,
            body_bytes_max: hub.calls.limits.message_bytes_max,
        };
        Connections {
            admits,
            router: http::router(Arc::clone(&hub), admits),
            overfull,
            unwelcome,
            hub,
            builder,
            open,
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_ONCE_MAX)),
            tls: options.tls.clone(),
            limits,
            write_time_max: options.write_time_max,
            close,
        }
    }

    /// The same for connections that need not be made safe.
    pub(super) fn without_tls(self) -> Connections {
        Connections { tls: None, ..self }
    }

    /// The connection as a task, or `None` if there are far too many.
    pub(super) fn admit<S: Stream>(self: &Arc<Self>, stream: S) -> Option<impl Future<Output = ()> + Send + use<S>> {
        let is_admitted = self.admits.admit(|| stream.user());
        let (permit, refusal) = Refusal::place(is_admitted, &self.open, &self.refusals)?;
        let connections = Arc::clone(self);
        Some(async move {
            let conversation = connections.converse(stream, refusal, permit);
            match refusal {
                None => conversation.await,
                Some(refusal) => drop(timeout(refusal.time_max(), conversation).await),
            }
        })
    }

    /// Answer the requests of one connection, until it ends or the hub does.
    async fn converse(&self, stream: impl Stream, refusal: Option<Refusal>, permit: OwnedSemaphorePermit) {
        let open = Open::new(&self.hub, permit);
        if let Err(error) = stream.prepare(self.write_time_max) {
            tracing::debug!(%error, "a connection could not be set up");
        }
        let stream = Paced::new(stream, self.write_time_max);
        let Some(tls) = &self.tls else { return self.answer(stream, open, refusal).await };
        match tls.accept_http(stream, self.limits.head_time_max).await {
            Ok(stream) => Box::pin(self.answer(stream, open, refusal)).await,
            Err(error) => tracing::debug!(%error, "a connection was not made safe"),
        }
    }

    async fn answer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        open: Open,
        refusal: Option<Refusal>,
    ) {
        let stream = Half::new(stream).holding(open);
        let work = stream.work().clone();
        let ended = match refusal {
            Some(Refusal::TooMany) => self.serve(stream, work, &self.overfull).await,
            Some(Refusal::Stranger) => self.serve(stream, work, &self.unwelcome).await,
            None => match self.answer_plain(stream).await {
                Ok(Some(rest)) => Box::pin(in_place(self.serve(rest, work, &self.router))).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }

    /// Answer what is plain. Returns what is left of the connection.
    pub(super) async fn answer_plain<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: Half<S>,
    ) -> io::Result<Option<fast::Rest<Half<S>>>> {
        let conversation = pin!(fast::Plain::new(&self.hub, self.admits, self.limits, &self.close, stream).converse());
        match self.until_close(conversation).await {
            Ok(ended) => ended,
            Err(conversation) => timeout(CLOSE_TIME_MAX, conversation).await.unwrap_or(Ok(None)),
        }
    }

    /// Answer by a router. A connection that is upgraded is its handler's from then on, and counts as open until that drops it.
    pub(super) async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        work: Work,
        router: &Router,
    ) -> io::Result<()> {
        let routed = TowerToHyperService::new(router.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            work.begin(request.version());
            let (answering, work) = (routed.call(request), work.clone());
            async move { answering.await.map(|answer| work.until_made(answer)) }
        });
        let conversation = pin!(self.builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        let ended = match self.until_close(conversation).await {
            Ok(ended) => ended,
            Err(mut conversation) => {
                conversation.as_mut().graceful_shutdown();
                timeout(CLOSE_TIME_MAX, conversation).await.unwrap_or(Ok(()))
            }
        };
        ended.map_err(io::Error::other)
    }

    /// Go on until the hub closes its connections; gives back what is not done then.
    async fn until_close<'f, F: Future>(&self, mut conversation: Pin<&'f mut F>) -> Result<F::Output, Pin<&'f mut F>> {
        tokio::select! {
            biased;
            ended = &mut conversation => Ok(ended),
            () = self.close.cancelled() => Err(conversation),
        }
    }
}

/// Send small answers at once, and give up on a peer that takes nothing or is not there any more.
pub(super) fn prepare(stream: &TcpStream, write_time_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
    rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
    let ms = write_time_max.as_millis().try_into().unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?)
}

/// A connection that is open, for as long as this lives.
pub(super) struct Open {
    hub: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(hub: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Open {
        hub.connections.fetch_add(1, Ordering::Relaxed);
        Open { hub: Arc::clone(hub), _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        http::{StatusCode, header},
        response::{IntoResponse as _, Response},
        routing::get,
    };
    use rustix::net::sockopt;
    use skep_tools::workspace::Dir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{
        super::{Listeners, Parts},
        *,
    };
    use crate::hub::{calls::Calls, catalogue::Catalogue};

    #[tokio::test]
    async fn a_connection_asks_in_silence_whether_the_other_side_is_still_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream, Duration::from_secs(7)).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_EVERY);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 7000, "and gives up");
    }

    /// Says again whatever it hears, in a protocol that is not HTTP.
    async fn echo(request: Request) -> Response {
        let upgraded = hyper::upgrade::on(request);
        #[expect(clippy::disallowed_methods, reason = "it ends with the connection, whose end the test awaits")]
        tokio::spawn(async move {
            let (mut input, mut output) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            let _ = tokio::io::copy(&mut input, &mut output).await;
        });
        let upgrade = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
        (StatusCode::SWITCHING_PROTOCOLS, upgrade).into_response()
    }

    #[tokio::test]
    async fn a_connection_can_be_upgraded_and_is_open_until_the_other_protocol_ends() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open(directory.path()).unwrap();
        let calls = Calls::new(Catalogue::new([]), dir.clone(), dir, Default::default());
        let parts = Parts { name: "test".into(), calls: Arc::new(calls), store: None, probes: Vec::new() };
        let options = Options { bind: vec!["127.0.0.1:0".to_owned()], ..Options::default() };
        let Listeners { hub, options, .. } = Listeners::open(options, parts).await.unwrap();
        let open = Arc::new(Semaphore::new(1));
        let connections =
            Connections::new(Admits::Tokens, Arc::clone(&hub), &options, Arc::clone(&open), Arc::default());
        let router = Router::new().route("/echo", get(echo));
        let connections = Arc::new(Connections { router, ..connections });

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client
            .write_all(b"GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhel")
            .await
            .unwrap();
        connections.admit(stream).unwrap().await; // its part is done when the protocol is another's
        client.write_all(b"lo").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhello") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        assert_eq!((hub.connections.load(Ordering::Relaxed), open.available_permits()), (1, 0));
        drop(client);
        let _ended = open.acquire().await.unwrap();
        assert_eq!(hub.connections.load(Ordering::Relaxed), 0);
    }
}
