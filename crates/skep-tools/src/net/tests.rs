//! The client against servers of this machine, which it reaches only because a test allows it to.

use std::{
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Request as Asked, State},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::{any, get},
};
use proptest::prelude::*;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

use super::*;

/// A server that ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

pub(crate) async fn serve(router: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Server { address, _task: task }
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A client that may reach this server and nothing else of this machine.
    pub(crate) fn client(&self) -> Client {
        allowing(&[&self.address.to_string()])
    }
}

pub(crate) fn allowing(hosts: &[&str]) -> Client {
    let allow_hosts = hosts.iter().map(|host| HostPort::try_from((*host).to_owned()).unwrap()).collect();
    Client::new(&Settings { allow_hosts, ..Settings::default() })
}

fn ask(url: &str) -> Request {
    Request {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Vec::new(),
        body_max: 1 << 20,
        follow: true,
        deadline: Instant::now() + Duration::from_secs(20),
    }
}

fn refusal(result: Result<Response, Error>) -> String {
    match result {
        Err(Error::Refused(message)) => message,
        other => panic!("not refused: {other:?}"),
    }
}

/// A server that counts its visitors and is allowed to nobody.
async fn secret() -> (Server, Arc<AtomicUsize>) {
    let visits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&visits);
    let router = Router::new().fallback(any(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        "secret"
    }));
    (serve(router).await, visits)
}

#[tokio::test]
async fn what_belongs_to_this_machine_is_not_reached_under_any_name() {
    let (server, visits) = secret().await;
    let port = server.address.port();
    let client = Client::new(&Settings::default());
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "0"] {
        let message = refusal(client.send(ask(&format!("http://{host}:{port}/"))).await);
        assert!(message.contains("web.allow_hosts"), "{host}: {message}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    let mapped = format!("http://[::ffff:127.0.0.1]:{port}/");
    refusal(client.send(ask(&mapped)).await);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_host_that_the_operator_listed_is_reached_at_its_port_only() {
    let (server, _) = secret().await;
    let (other, visits) = secret().await;
    let client = allowing(&[&format!("localhost:{}", server.address.port())]);
    let answer = client.send(ask(&format!("http://localhost:{}/", server.address.port()))).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, b"secret".as_slice()));
    refusal(client.send(ask(&format!("http://localhost:{}/", other.address.port()))).await);
    refusal(client.send(ask(&server.url("/"))).await);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_leads_only_to_where_the_caller_might_have_gone() {
    let (hidden, visits) = secret().await;
    let port = hidden.address.port();
    let targets = Arc::new(Mutex::new(String::new()));
    let router = Router::new()
        .route("/", get(async |State(to): State<Arc<Mutex<String>>>| Redirect::temporary(&to.lock().unwrap())))
        .with_state(Arc::clone(&targets));
    let server = serve(router).await;
    for target in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("//[::1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal@10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1:11211/".to_owned(),
    ] {
        targets.lock().unwrap().clone_from(&target);
        refusal(server.client().send(ask(&server.url("/"))).await);
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    let answer = server.client().send(Request { follow: false, ..ask(&server.url("/")) }).await.unwrap();
    assert_eq!(answer.status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit() {
    let step = async |Path(left): Path<usize>| match left {
        0 => "arrived".into_response(),
        _ => Redirect::to(&format!("/{}", left - 1)).into_response(),
    };
    let server = serve(Router::new().route("/{left}", get(step))).await;
    let answer = server.client().send(ask(&server.url(&format!("/{REDIRECTS_MAX}")))).await.unwrap();
    assert_eq!((answer.url.path(), answer.body.as_slice()), ("/0", b"arrived".as_slice()));
    let error = server.client().send(ask(&server.url(&format!("/{}", REDIRECTS_MAX + 1)))).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(message) if message.contains("redirects")));
}

/// What a server saw: method, secret headers, body.
async fn mirror(request: Asked) -> String {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1000).await.unwrap();
    let seen = |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
    let (authorization, key, accept) = (seen("authorization"), seen("x-api-key"), seen("accept"));
    format!("{} {authorization} {key} {accept} {}", head.method, String::from_utf8_lossy(&body))
}

#[tokio::test]
async fn a_redirect_takes_secrets_along_only_within_the_origin() {
    let other = serve(Router::new().fallback(any(mirror))).await;
    let away = other.url("/there");
    let redirect = move |status: StatusCode, to: String| any(async move || (status, [(header::LOCATION, to)]));
    let server = serve(
        Router::new()
            .route("/near", redirect(StatusCode::PERMANENT_REDIRECT, "/there".to_owned()))
            .route("/far", redirect(StatusCode::PERMANENT_REDIRECT, away))
            .route("/see", redirect(StatusCode::SEE_OTHER, "/there".to_owned()))
            .route("/there", any(mirror)),
    )
    .await;
    let client = allowing(&[&server.address.to_string(), &other.address.to_string()]);
    let headers = headers([("authorization", "Bearer s"), ("x-api-key", "k"), ("accept", "text/plain")]).unwrap();
    let post = async |path: &str| {
        let request =
            Request { method: Method::POST, headers: headers.clone(), body: b"body".into(), ..ask(&server.url(path)) };
        String::from_utf8(client.send(request).await.unwrap().body).unwrap()
    };
    assert_eq!(post("/near").await, "POST Bearer s k text/plain body");
    assert_eq!(post("/far").await, "POST - - text/plain body");
    assert_eq!(post("/see").await, "GET Bearer s k text/plain ");
}

/// Says so when it is dropped.
struct Last(mpsc::UnboundedSender<()>);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_flood_is_cut_and_its_sender_stopped() {
    let chunks = Arc::new(AtomicUsize::new(0));
    let (tell, mut stopped) = mpsc::unbounded_channel();
    let sent = Arc::clone(&chunks);
    let flood = get(async move || {
        let chunk = move |last: Last| {
            sent.fetch_add(1, Ordering::SeqCst);
            async move { Some((Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; 64 << 10])), last)) }
        };
        Body::from_stream(futures_util::stream::unfold(Last(tell.clone()), chunk))
    });
    let server = serve(Router::new().route("/", flood)).await;
    let answer = server.client().send(Request { body_max: 100_000, ..ask(&server.url("/")) }).await.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (100_000, true));
    assert_eq!(stopped.recv().await, Some(()), "the server was told to stop");
    assert!(chunks.load(Ordering::SeqCst) < 1000);
}

#[tokio::test]
async fn a_compressed_bomb_is_cut_at_the_limit_after_decompression() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = Bytes::from(bomb.finish().unwrap());
    assert!(bomb.len() < 1 << 20);
    let server = serve(Router::new().route("/", get(async move || ([(header::CONTENT_ENCODING, "gzip")], bomb)))).await;
    let answer = server.client().send(ask(&server.url("/"))).await.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (1 << 20, true));
}

#[tokio::test]
async fn a_body_as_long_as_the_limit_is_whole() {
    let server = serve(Router::new().route("/", get(async || "12345"))).await;
    for (body_max, truncated) in [(5, false), (4, true)] {
        let answer = server.client().send(Request { body_max, ..ask(&server.url("/")) }).await.unwrap();
        assert_eq!((answer.body.len(), answer.truncated), (body_max, truncated));
    }
}

#[tokio::test]
async fn a_server_that_dawdles_is_left_at_the_deadline() {
    let pending = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>());
    let router = Router::new()
        .route("/body", get(async move || pending()))
        .route("/head", get(async || std::future::pending::<()>().await));
    let server = serve(router).await;
    for path in ["/body", "/head"] {
        let deadline = Instant::now() + Duration::from_millis(100);
        assert_eq!(
            server.client().send(Request { deadline, ..ask(&server.url(path)) }).await.unwrap_err(),
            Error::TimedOut
        );
    }
}

/// A server that answers every connection with these bytes.
async fn raw(answer: Vec<u8>) -> Server {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
        }
    });
    Server { address, _task: task }
}

#[tokio::test]
async fn what_is_not_http_and_heads_without_end_are_an_error() {
    let many: String = (0..=ANSWER_HEADERS_MAX).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    for answer in [
        "220 mail ESMTP\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        format!("HTTP/1.1 200 OK\r\n{long}\r\n"),
    ] {
        let server = raw(answer.into_bytes()).await;
        let error = server.client().send(ask(&server.url("/path?token=secret"))).await.unwrap_err();
        let Error::Unreachable(message) = error else { panic!("{error:?}") };
        assert!(message.contains("/path gave no valid answer") && !message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn nobody_listening_and_no_such_name_are_told_apart_from_a_refusal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    for url in [format!("http://{address}/"), "http://no-such-host.invalid/".to_owned()] {
        let error = allowing(&[&address]).send(ask(&url)).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable(message) if message.contains("cannot be reached")), "{error:?}");
    }
}

#[test]
fn other_schemes_passwords_and_ports_of_other_services_are_refused() {
    let rules = Client::new(&Settings::default()).rules;
    for url in ["ftp://example.com/", "file:///etc/passwd", "http://user@example.com/", "http://:p@example.com/"] {
        assert!(rules.check(&url.parse().unwrap()).is_err(), "{url}");
    }
    for port in [22, 25, 6000, 6667] {
        assert!(rules.check(&format!("http://example.com:{port}/").parse().unwrap()).is_err(), "{port}");
    }
    for url in ["http://example.com/", "https://example.com:8443/", "http://8.8.8.8:8080/"] {
        assert_eq!(rules.check(&url.parse().unwrap()), Ok(()), "{url}");
    }
    assert!(BLOCKED_PORTS.is_sorted());
}

#[test]
fn headers_that_frame_the_message_are_not_taken_from_callers() {
    for name in ["Host", "content-length", "Transfer-Encoding", "Connection", "Proxy-Authorization", "TE", "Upgrade"] {
        assert!(headers([(name, "x")]).is_err(), "{name}");
    }
    for (name, value) in [("x y", "z"), ("x", "a\r\nhost: evil"), ("", "x"), ("x:", "y")] {
        assert!(headers([(name, value)]).is_err(), "{name:?} {value:?}");
    }
    let names: Vec<String> = (0..=HEADERS_MAX).map(|n| format!("x-{n}")).collect();
    let lines =
        |count: usize| headers(names[..count].iter().map(|name| (name.as_str(), "1"))).map(|headers| headers.len());
    assert_eq!(lines(HEADERS_MAX), Ok(HEADERS_MAX));
    assert!(lines(HEADERS_MAX + 1).is_err());
    assert!(headers([("x", "y".repeat(HEADER_BYTES_MAX).as_str())]).is_err());
}

#[test]
fn allowed_hosts_are_read_in_one_form_only() {
    let parse =
        |text: &str| HostPort::try_from(text.to_owned()).map(|HostPort { host, port }| format!("{host} {port}"));
    assert_eq!(parse("LocalHost:8080").unwrap(), "localhost 8080");
    assert_eq!(parse("[::1]:80").unwrap(), "[::1] 80");
    assert_eq!(parse("127.1:443").unwrap(), "127.0.0.1 443");
    for wrong in
        ["localhost", "http://localhost:80", "localhost:0", "localhost:99999", ":80", "a:1/x", "u@a:1", "a:1?x", ""]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_way_to_write_a_private_address_gets_through(tail in 0u32..1 << 24, form in 0usize..6, private in 0usize..2) {
        let address = ([127u32, 10][private] << 24) | tail;
        let [a, b, c, d] = address.to_be_bytes();
        let host = match form {
            0 => format!("{a}.{b}.{c}.{d}"),
            1 => format!("{address}"),
            2 => format!("{address:#x}"),
            3 => format!("0{address:o}"),
            4 => format!("{a}.{:#x}", address & 0xff_ffff),
            _ => format!("0{a:o}.{b:#x}.{}", u32::from(c) << 8 | u32::from(d)),
        };
        let url: Url = format!("http://{host}/").parse().unwrap();
        prop_assert!(Client::new(&Settings::default()).rules.check(&url).is_err(), "{}", url);
    }
}

#[test]
fn a_command_is_connected_to_what_is_for_everybody_and_to_what_the_operator_listed() {
    let listed = vec![HostPort::try_from("db.example:5432".to_owned()).unwrap()];
    let gate = gate(&Settings { allow_hosts: listed, ..Settings::default() });
    let ask = |host: &str, port, address: &str| {
        gate.ask(&Destination { host: host.into(), port, address: address.parse().unwrap() })
    };
    assert_eq!(ask("example.org", 443, "93.184.216.34"), Ok(()));
    assert_eq!(ask("db.example", 5432, "10.0.0.7"), Ok(()));
    for (host, port, address) in [
        ("db.example", 22, "10.0.0.7"),
        ("rebinds.example", 80, "127.0.0.1"),
        ("rebinds.example", 80, "::ffff:10.0.0.7"),
        ("metadata", 80, "169.254.169.254"),
    ] {
        assert!(ask(host, port, address).is_err(), "{host}:{port} {address}");
    }
}
