//! The requests.

use skep_mcp::framing::SMALL_BYTES;

/// Bytes of a body, at the hub that the requests are for.
pub(super) const BODY_BYTES_MAX: usize = 100_000;
pub(super) const TOKEN: &str = "correct-horse-battery";

/// Who is to answer a request first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    FastPath,
    Router,
}
use By::{FastPath, Router};

/// A request, or several, as bytes. `{session}` and `{batching}` stand for sessions of 2025-06-18 and 2025-03-26.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) by: By,
    pub(super) bytes: Vec<u8>,
    /// Whether something behind it would be a request of its own.
    pub(super) is_whole: bool,
}

fn shape(name: &'static str, by: By, bytes: impl Into<Vec<u8>>) -> Shape {
    Shape { name, by, bytes: bytes.into(), is_whole: true }
}

/// A request that breaks off.
fn part(name: &'static str, by: By, bytes: &str) -> Shape {
    Shape { is_whole: false, ..shape(name, by, bytes) }
}

/// A request whose body is this.
pub(super) fn post(fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    with_head(format!("host: localhost\r\nx-request-id: t\r\n{fields}content-length: {}\r\n", body.len()), body)
}

/// A request with nothing but these fields.
pub(super) fn with_head(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [&b"POST /mcp HTTP/1.1\r\n"[..], fields.as_ref(), b"\r\n", body.as_ref()].concat()
}

/// A request with another request line; of a `ping`, which belongs to no session and so is refused with 400.
fn line(line: &str) -> Vec<u8> {
    let ping = ping();
    let length = ping.len();
    format!("{line}\r\nhost: localhost\r\nx-request-id: t\r\ncontent-length: {length}\r\n\r\n{ping}").into_bytes()
}

/// A message of 2026-07-28, and its headers.
fn modern(method: &str, more: &str) -> (String, String) {
    let meta =
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{{meta}}}{more}}}}}"#);
    (format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n"), body)
}

fn modern_post(fields: &str, method: &str, more: &str) -> Vec<u8> {
    let (headers, body) = modern(method, more);
    post(&format!("{headers}{fields}"), body)
}

fn discover(fields: &str) -> Vec<u8> {
    modern_post(fields, "server/discover", "")
}

fn ping() -> String {
    r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned()
}

pub(super) fn initialize(revision: &str) -> String {
    let params =
        format!(r#"{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#)
}

/// What is sent in chunks, as these stand.
fn chunked(fields: &str, chunks: &str) -> Vec<u8> {
    with_head(format!("host: localhost\r\nx-request-id: t\r\n{fields}transfer-encoding: chunked\r\n"), chunks)
}

const JSON: &str = "accept: application/json\r\n";
const BOTH: &str = "accept: application/json, text/event-stream\r\n";

pub(super) fn stateless() -> Vec<Shape> {
    let call = r#","name":"nobody","arguments":{"text":"hi"}"#;
    vec![
        shape("a stateless request", FastPath, discover(BOTH)),
        shape("a stateless request that accepts JSON only", FastPath, discover(JSON)),
        shape(
            "a stateless call",
            FastPath,
            modern_post("mcp-name: nobody\r\naccept: application/json\r\n", "tools/call", call),
        ),
        shape("a stateless answer as a stream", FastPath, discover("accept: text/event-stream\r\n")),
        shape("a stateless list", FastPath, modern_post(JSON, "tools/list", "")),
        shape(
            "a stateless notification",
            FastPath,
            post("mcp-protocol-version: 2026-07-28\r\n", r#"{"jsonrpc":"2.0","method":"notifications/x"}"#),
        ),
        shape("a long answer", FastPath, modern_post("", &"m".repeat(12_000), "")),
        shape("an unknown method", FastPath, modern_post("", "tools/fetch", "")),
        shape(
            "no method in the headers",
            FastPath,
            post("mcp-protocol-version: 2026-07-28\r\n", modern("server/discover", "").1),
        ),
        shape(
            "another method in the headers",
            FastPath,
            post("mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n", modern("server/discover", "").1),
        ),
        shape("two names in the headers", FastPath, modern_post("mcp-name: a\r\nmcp-name: b\r\n", "tools/call", call)),
        shape("an encoded name", FastPath, modern_post("mcp-name: =?base64?bm9ib2R5?=\r\n", "tools/call", call)),
        shape("a badly encoded name", FastPath, modern_post("mcp-name: =?base64?!?=\r\n", "tools/call", call)),
        shape(
            "a parameter header",
            FastPath,
            modern_post("mcp-name: nobody\r\nmcp-param-region: eu\r\n", "tools/call", call),
        ),
        shape("an unknown revision", FastPath, post("mcp-protocol-version: 2099-01-01\r\n", ping())),
        shape(
            "a revision that is no text",
            FastPath,
            with_head(b"host: localhost\r\nmcp-protocol-version: \xff\xfe\r\ncontent-length: 2\r\n", "{}"),
        ),
        shape("nothing that can be read is accepted", FastPath, discover("accept: text/html\r\n")),
        shape("everything is accepted", FastPath, discover("accept: */*;q=0.1\r\n")),
        shape(
            "two fields say what is accepted",
            FastPath,
            discover("accept: text/html\r\naccept: application/json\r\n"),
        ),
        shape("an empty field says what is accepted", FastPath, discover("accept:\r\n")),
        shape("another type of body", FastPath, discover("content-type: text/plain\r\n")),
        shape(
            "an unfit name for the request",
            FastPath,
            with_head("host: localhost\r\nx-request-id: two words\r\ncontent-length: 2\r\n", "{}"),
        ),
        shape("two names for the request", FastPath, discover("x-request-id: u\r\n")),
    ]
}

pub(super) fn of_sessions() -> Vec<Shape> {
    let in_session = |fields: &str, body: &str| post(&format!("mcp-session-id: {{session}}\r\n{fields}"), body);
    let batch = format!("[{},{}]", ping(), ping());
    vec![
        shape("the beginning of a session", FastPath, post(BOTH, initialize("2025-06-18"))),
        shape("the beginning of a session of an unknown revision", FastPath, post(BOTH, initialize("1999-01-01"))),
        shape("a request of a session", FastPath, in_session(BOTH, &ping())),
        shape("a list of a session", FastPath, in_session(JSON, r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#)),
        shape(
            "a notification of a session",
            FastPath,
            in_session("", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        ),
        shape("an answer of a session's caller", FastPath, in_session("", r#"{"jsonrpc":"2.0","id":9,"result":{}}"#)),
        shape("a batch where there are none any more", FastPath, in_session("", &batch)),
        shape("a batch", FastPath, post("mcp-session-id: {batching}\r\naccept: application/json\r\n", &batch)),
        shape("a batch that is empty", FastPath, post("mcp-session-id: {batching}\r\n", "[]")),
        shape("a batch without a session", FastPath, post("", &batch)),
        shape("a batch of the newest revision", FastPath, post("mcp-protocol-version: 2026-07-28\r\n", &batch)),
        shape("no session", FastPath, post("", ping())),
        shape("a session that there is not", FastPath, post("mcp-session-id: nobody-s\r\n", ping())),
        shape("two sessions", FastPath, in_session("mcp-session-id: nobody-s\r\n", &ping())),
        shape(
            "a session with the newest revision",
            FastPath,
            in_session("mcp-protocol-version: 2026-07-28\r\n", &ping()),
        ),
    ]
}

pub(super) fn bodies() -> Vec<Shape> {
    let padded = |bytes: usize| {
        let (headers, body) = modern("server/discover", r#","p":"""#);
        let padding = "x".repeat(bytes - body.len());
        post(&headers, body.replace(r#""p":"""#, &format!(r#""p":"{padding}""#)))
    };
    let mut shapes: Vec<Shape> = [
        ("an empty body", &b""[..]),
        ("a blank body", b" \r\n\t "),
        ("no JSON", b"hello"),
        ("half of a message", br#"{"jsonrpc":"2.0","id":1,"#),
        ("something behind the message", br#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#),
        ("a byte order mark", "\u{feff}{}".as_bytes()),
        ("what is no UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}"),
        ("a NUL", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\0\"}"),
        ("a member twice", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#),
        ("a number", b"7"),
        ("null", b"null"),
        ("an empty object", b"{}"),
        ("an id that is null", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
        ("another version of JSON-RPC", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
        ("parameters that are text", br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}"#),
    ]
    .map(|(name, body)| shape(name, FastPath, post("", body)))
    .into();
    shapes.push(shape("too deep", FastPath, post("", "[".repeat(10_000))));
    shapes.push(shape("as large as small bodies are", FastPath, padded(SMALL_BYTES)));
    shapes.push(shape("larger than small bodies are", Router, padded(SMALL_BYTES + 1)));
    shapes.push(shape("as large as bodies may be", Router, padded(BODY_BYTES_MAX)));
    shapes.push(shape("larger than bodies may be", Router, padded(BODY_BYTES_MAX + 1)));
    shapes
}

/// Lengths of bodies.
pub(super) fn lengths() -> Vec<Shape> {
    let fields = |fields: &str| with_head(format!("host: localhost\r\nx-request-id: t\r\n{fields}"), "{}");
    vec![
        shape("two equal lengths", Router, fields("content-length: 2\r\ncontent-length: 2\r\n")),
        shape("two lengths", Router, fields("content-length: 2\r\nContent-Length: 1\r\n")),
        shape("two lengths in one field", Router, fields("content-length: 2, 2\r\n")),
        shape("a length with a plus", Router, fields("content-length: +2\r\n")),
        shape("a negative length", Router, fields("content-length: -2\r\n")),
        shape("a hexadecimal length", Router, fields("content-length: 0x2\r\n")),
        shape("an empty length", Router, fields("content-length:\r\n")),
        shape("a length that no number holds", Router, fields("content-length: 99999999999999999999999\r\n")),
        shape("a length of zeros", FastPath, fields("content-length: 00000000000000000000000000000002\r\n")),
        shape("blanks around the length", FastPath, fields("content-length:\t 2 \t\r\n")),
        shape("a blank within the length", Router, fields("content-length: 0 2\r\n")),
        shape("no length", Router, with_head("host: localhost\r\nx-request-id: t\r\n", "")),
        shape("a blank before the colon", Router, fields("content-length : 2\r\n")),
        shape("a folded field", Router, fields("content-length: 2\r\na: 1\r\n 2\r\n")),
        shape("a folded length", Router, fields("content-length:\r\n 2\r\n")),
    ]
}

/// Chunks, encodings, and what a connection is to become.
pub(super) fn encodings() -> Vec<Shape> {
    let fields = |fields: &str| with_head(format!("host: localhost\r\nx-request-id: t\r\n{fields}"), "{}");
    vec![
        shape("chunks", Router, chunked("", "2\r\n{}\r\n0\r\n\r\n")),
        shape("chunks with extensions and trailers", Router, chunked("", "1;a=b\r\n{\r\n1\r\n}\r\n0\r\nx: y\r\n\r\n")),
        shape("no chunks", Router, chunked("", "0\r\n\r\n")),
        shape("a chunk that is none", Router, chunked("", "z\r\n{}\r\n0\r\n\r\n")),
        shape("a chunk that is longer than it says", Router, chunked("", "1\r\n{}\r\n0\r\n\r\n")),
        shape("chunks and a length", Router, chunked("content-length: 2\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        shape("chunks twice", Router, chunked("transfer-encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        shape("chunks that are compressed", Router, chunked("transfer-encoding: gzip\r\n", "2\r\n{}\r\n0\r\n\r\n")),
        shape("an identity and a length", Router, fields("transfer-encoding: identity\r\ncontent-length: 2\r\n")),
        shape(
            "an unknown encoding and a length",
            Router,
            fields("content-length: 2\r\nTransfer-Encoding: xchunked\r\n"),
        ),
        shape(
            "a blank before the encoding's colon",
            Router,
            fields("content-length: 2\r\ntransfer-encoding : chunked\r\n"),
        ),
        shape("a compressed body", Router, fields("content-length: 2\r\ncontent-encoding: gzip\r\n")),
        shape("a body that is not compressed", Router, fields("content-length: 2\r\ncontent-encoding: identity\r\n")),
        shape("a body that waits for a word", Router, fields("content-length: 2\r\nexpect: 100-continue\r\n")),
        shape("something else that is expected", Router, fields("content-length: 2\r\nexpect: wonders\r\n")),
        shape(
            "an upgrade to HTTP/2",
            Router,
            fields(
                "content-length: 2\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n",
            ),
        ),
        shape(
            "an upgrade to WebSocket",
            Router,
            fields("content-length: 2\r\nconnection: upgrade\r\nupgrade: websocket\r\n"),
        ),
        shape(
            "an upgrade that the connection does not name",
            Router,
            fields("content-length: 2\r\nupgrade: websocket\r\n"),
        ),
        shape("the last request", Router, fields("content-length: 2\r\nconnection: close\r\n")),
        shape("not the last request", FastPath, fields("content-length: 2\r\nConnection: Keep-Alive\r\n")),
        shape(
            "not the last request, twice",
            FastPath,
            fields("content-length: 2\r\nconnection: keep-alive\r\nconnection: keep-alive\r\n"),
        ),
        shape(
            "the last request and not the last",
            Router,
            fields("content-length: 2\r\nconnection: keep-alive, close\r\n"),
        ),
        shape("a connection that says nothing", Router, fields("content-length: 2\r\nconnection:\r\n")),
        shape("trailers that are welcome", FastPath, fields("content-length: 2\r\nte: trailers\r\ntrailer: x\r\n")),
    ]
}

/// Lines and lengths of heads, and what comes before and after a request.
pub(super) fn heads() -> Vec<Shape> {
    let fields = |fields: &str| with_head(format!("host: localhost\r\nx-request-id: t\r\n{fields}"), "{}");
    let many = |fields: usize| discover(&"a: 1\r\n".repeat(fields - 5)); // there are five besides
    let long = |bytes: usize| {
        let padding = bytes - fields("content-length: 2\r\na: \r\n").len() + "{}".len();
        fields(&format!("content-length: 2\r\na: {}\r\n", "x".repeat(padding)))
    };
    vec![
        shape("lines without carriage returns", FastPath, fields("content-length: 2\r\na: 1\nb: 2\r\n")),
        shape(
            "no carriage return in the whole head",
            Router,
            "POST /mcp HTTP/1.1\nhost: localhost\nx-request-id: t\ncontent-length: 2\n\n{}",
        ),
        shape(
            "no carriage return but in the first line",
            Router,
            "POST /mcp HTTP/1.1\r\nhost: localhost\nx-request-id: t\ncontent-length: 2\n\n{}",
        ),
        shape(
            "a head without carriage returns within the body",
            Router,
            "POST /mcp HTTP/1.1\r\nhost: localhost\nx-request-id: t\ncontent-length: 8\n\n{\r\n\r\n}  ",
        ),
        shape("a carriage return in a value", Router, fields("content-length: 2\r\na: 1\r2\r\n")),
        shape("a NUL in a value", Router, fields("content-length: 2\r\na: 1\x002\r\n")),
        shape("a control character in a value", Router, fields("content-length: 2\r\na: \x7f\r\n")),
        shape(
            "other bytes in a value",
            FastPath,
            with_head(b"host: localhost\r\nx-request-id: t\r\na: \xe9\xff\r\ncontent-length: 2\r\n", "{}"),
        ),
        shape("a field without a colon", Router, fields("content-length: 2\r\nnothing\r\n")),
        shape("a field without a name", Router, fields("content-length: 2\r\n: 1\r\n")),
        shape("a field whose name is none", Router, fields("content-length: 2\r\na(b): 1\r\n")),
        shape("a field without a value", FastPath, fields("content-length: 2\r\na:\r\n")),
        shape("as many fields as the fast path takes", FastPath, many(64)),
        shape("one field more", Router, many(65)),
        shape("more fields than anybody takes", Router, many(101)),
        shape("a head as long as the fast path takes", FastPath, long(16 << 10)),
        shape("a head that is longer", Router, long((16 << 10) + 1)),
        shape("a head as long as any may be", Router, long(64 << 10)),
        shape("a head that is longer than any may be", Router, long((64 << 10) + 1)),
        shape("nothing", FastPath, ""),
        part("half of the first line", Router, "POST /mcp HT"),
        part("half of a head", Router, "POST /mcp HTTP/1.1\r\nhost: local"),
        part("half of a head that is wrong", Router, "POST /mcp HTTP/1.1\r\na b: c\r\nhost: local"),
        shape("noise", Router, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice()),
        shape("a request before another", FastPath, [discover(""), discover("x-request-id: u\r\n")].concat()),
        shape(
            "a request before one for the router and another",
            FastPath,
            [discover(""), line("GET /mcp HTTP/1.1"), discover("x-request-id: u\r\n")].concat(),
        ),
        shape("a request before noise", FastPath, [&discover("")[..], b"\x00\x01\r\n\r\n"].concat()),
        shape(
            "a request before an empty line and another",
            FastPath,
            [&discover("")[..], b"\r\n", &discover("")[..]].concat(),
        ),
        shape("a body that is longer than it says", FastPath, fields("content-length: 1\r\n")),
    ]
}

pub(super) fn lines() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = [
        "GET /mcp HTTP/1.1",
        "PUT /mcp HTTP/1.1",
        "PATCH /mcp HTTP/1.1",
        "DELETE /mcp HTTP/1.1",
        "OPTIONS /mcp HTTP/1.1",
        "TRACE /mcp HTTP/1.1",
        "BREW /mcp HTTP/1.1",
        "post /mcp HTTP/1.1",
        "POST /mcp http/1.1",
        "POST /mcp HTTP/1.0",
        "POST /mcp HTTP/1.2",
        "POST /mcp HTTP/2.0",
        "POST /mcp",
        "POST /mcp?x=1 HTTP/1.1",
        "POST /mcp#x HTTP/1.1",
        "POST /mcp/ HTTP/1.1",
        "POST //mcp HTTP/1.1",
        "POST /./mcp HTTP/1.1",
        "POST /MCP HTTP/1.1",
        "POST /%6dcp HTTP/1.1",
        "POST mcp HTTP/1.1",
        "POST  /mcp HTTP/1.1",
        "POST\t/mcp HTTP/1.1",
        "POST /mcp  HTTP/1.1",
        "POST /mcp HTTP/1.1 ",
        " POST /mcp HTTP/1.1",
        "\r\nPOST /mcp HTTP/1.1",
        "POST http://localhost/mcp HTTP/1.1",
        "POST http://evil.example/mcp HTTP/1.1",
        "POST localhost:80 HTTP/1.1",
        "CONNECT localhost:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "POST /messages?sessionId=1 HTTP/1.1",
        "POST /process HTTP/1.1",
        "GET /health/live HTTP/1.1",
    ]
    .map(|text| shape(text, Router, line(text)))
    .into();
    // Alone, since its answer has no body although it says how long one would be.
    shapes.push(Shape { is_whole: false, ..shape("a question for the head", Router, line("HEAD /mcp HTTP/1.1")) });
    shapes.push(shape("HTTP/1.0 that stays open", Router, line("POST /mcp HTTP/1.0\r\nconnection: keep-alive")));
    shapes.push(shape("HTTP/2", Router, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    shapes
}

pub(super) fn callers() -> Vec<Shape> {
    let host = |fields: &str| with_head(format!("{fields}x-request-id: t\r\ncontent-length: 2\r\n"), "{}");
    let page = "origin: https://console.example\r\n";
    let preflight = |origin: &str, fields: &str| {
        format!("OPTIONS /mcp HTTP/1.1\r\nhost: localhost\r\nx-request-id: t\r\norigin: {origin}\r\n{fields}\r\n")
    };
    let asked = "access-control-request-method: DELETE\r\naccess-control-request-headers: mcp-session-id\r\n";
    vec![
        shape("no host", FastPath, host("")),
        shape("two hosts", FastPath, host("host: localhost\r\nhost: localhost\r\n")),
        shape("an empty host", FastPath, host("host:\r\n")),
        shape("a host by its address", FastPath, host("host: 127.0.0.1:8000\r\n")),
        shape("a host by its address of IPv6", FastPath, host("Host: [::1]:8000\r\n")),
        shape("a host in capitals", FastPath, host("HOST: LOCALHOST\r\n")),
        shape("a host with a user", FastPath, host("host: me@localhost\r\n")),
        shape("another host", FastPath, host("host: evil.example\r\n")),
        shape(
            "a host that is no text",
            FastPath,
            with_head(b"host: \xff\r\nx-request-id: t\r\ncontent-length: 2\r\n", "{}"),
        ),
        shape("a page that may call", Router, discover(page)),
        shape(
            "a page that may call, from another site",
            Router,
            discover(&format!("{page}sec-fetch-site: cross-site\r\n")),
        ),
        shape("a page that may not call", Router, discover("origin: https://evil.example\r\n")),
        shape("a page of nobody", Router, discover("origin: null\r\n")),
        shape("a page of the hub's", Router, discover("origin: http://localhost\r\nsec-fetch-site: same-origin\r\n")),
        shape("two pages", Router, discover(&format!("{page}origin: https://evil.example\r\n"))),
        shape("a page that may call, at another host", Router, host(&format!("host: evil.example\r\n{page}"))),
        shape("a page from elsewhere without an origin", FastPath, discover("sec-fetch-site: cross-site\r\n")),
        shape("a page of the same site without an origin", FastPath, discover("sec-fetch-site: same-site\r\n")),
        shape("a request of the user's", FastPath, discover("sec-fetch-site: none\r\nsec-fetch-mode: navigate\r\n")),
        shape("a browser's question", Router, preflight("https://console.example", asked)),
        shape("a browser's question for another page", Router, preflight("https://evil.example", asked)),
        shape("a question that asks for nothing", Router, preflight("https://console.example", "")),
        shape("a question that is a request", FastPath, discover(asked)),
    ]
}

/// For a hub that has a token.
pub(super) fn tokens() -> Vec<Shape> {
    let with = |value: &str| discover(&format!("authorization: {value}\r\n"));
    let page = "origin: https://console.example\r\n";
    vec![
        shape("the token", FastPath, with(&format!("Bearer {TOKEN}"))),
        shape("the token, in other letters and blanks", FastPath, with(&format!("bearer   {TOKEN} "))),
        shape("another token", FastPath, with("Bearer correct-horse-batterx")),
        shape("a part of the token", FastPath, with("Bearer correct")),
        shape("no token", FastPath, discover("")),
        shape("an empty token", FastPath, with("Bearer")),
        shape("another scheme", FastPath, with(&format!("Basic {TOKEN}"))),
        shape(
            "two tokens, the right one first",
            FastPath,
            discover(&format!("authorization: Bearer {TOKEN}\r\nauthorization: Bearer x\r\n")),
        ),
        shape(
            "two tokens, the right one last",
            FastPath,
            discover(&format!("authorization: Bearer x\r\nauthorization: Bearer {TOKEN}\r\n")),
        ),
        shape("no token and no JSON", FastPath, post("", "hello")),
        shape(
            "no token at another host",
            FastPath,
            with_head("host: evil.example\r\nx-request-id: t\r\ncontent-length: 2\r\n", "{}"),
        ),
        shape("no token, from a page that may call", Router, discover(page)),
        shape(
            "the token, from a page that may call",
            Router,
            discover(&format!("{page}authorization: Bearer {TOKEN}\r\n")),
        ),
        shape(
            "the token, from a page that may not",
            Router,
            discover(&format!("origin: https://evil.example\r\nauthorization: Bearer {TOKEN}\r\n")),
        ),
        shape("no token and a large body", Router, post("", "x".repeat(SMALL_BYTES + 1))),
    ]
}
