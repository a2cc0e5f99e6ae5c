//! Against servers that write exactly these bytes.

use std::{iter, task::Waker, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{
    answer::{self, CHUNK_LINE_MAX, HEADERS_MAX},
    *,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Status and body.
type Answer = Result<(u16, Vec<u8>), String>;

/// Read an answer that comes in these parts, without a connection; what is behind it, and whether the connection may take
/// another request.
fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(u16, Vec<u8>, Vec<u8>, bool), String> {
    let (mut input, mut left, mut body) = (BytesMut::new(), HEAD_BYTES_MAX, Vec::new());
    let mut parts = parts.into_iter();
    let mut head = loop {
        if let Some(head) = answer::Head::take(&mut input, &mut left, true)? {
            break head;
        }
        input.extend_from_slice(parts.next().ok_or("it ended")?);
    };
    loop {
        while let Some(part) = head.body.take(&mut input)? {
            body.extend_from_slice(&part);
        }
        if head.body.has_ended() {
            input.extend(parts.flatten());
            return Ok((head.status.as_u16(), body, input.to_vec(), !head.is_last));
        }
        match parts.next() {
            Some(part) => input.extend_from_slice(part),
            None => head.body.close()?,
        }
    }
}

/// Answers in every framing, with what they say and whether their connection lives on.
const ANSWERS: [(&str, u16, &str, bool); 14] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true),
    ("HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n", 404, "", true),
    ("HTTP/1.1 200\r\nContent-Length: 2 \r\nConnection: Keep-Alive\r\n\r\nok", 200, "ok", true),
    ("HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false),
    ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n02;a=\"b\"\r\nlo\r\n0\r\n\r\n",
        200,
        "hello",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA \r\n0123456789\r\n00\r\nA: b\r\nC: d\r\n\r\n",
        200,
        "0123456789",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\n\n\r\n0\r\n\r\n",
        200,
        "\n",
        false,
    ),
    ("HTTP/1.1 202 Accepted\r\n\r\nuntil the end", 202, "until the end", false),
    ("HTTP/1.0 200 OK\r\n\r\n", 200, "", false),
    ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "", false),
    (
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
        true,
    ),
    ("HTTP/1.1 200 a: b\r\nX:\r\nY: \u{e4}\r\nContent-Length: 1\r\n\r\n\0", 200, "\0", true),
];

#[test]
fn an_answer_in_any_framing_is_the_same_wherever_it_is_split() {
    for (text, status, body, lives) in ANSWERS {
        let expected = Ok((status, body.as_bytes().to_vec(), Vec::new(), lives));
        let text = text.as_bytes();
        for at in 0..=text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(read([a, b]), expected, "{:?}", String::from_utf8_lossy(b));
        }
        assert_eq!(read(text.chunks(1)), expected, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_header_is_found_by_its_name_in_any_case_and_in_the_head_alone() {
    let text = "HTTP/1.1 200 ab: c\r\nXab: no\r\nAb-c: no\r\naB:\t 1 \r\nAB: 2\r\nempty:\r\n\r\nbody: no\r\n";
    let mut input = BytesMut::from(text);
    let mut left = HEAD_BYTES_MAX;
    let head = answer::Head::take(&mut input, &mut left, true).unwrap().unwrap();
    assert_eq!(head.header("ab"), Some(&b"1"[..]));
    assert_eq!(head.header("EMPTY"), Some(&b""[..]));
    for name in ["a", "body", "HTTP/1.1 200 a", ""] {
        assert_eq!(head.header(name), None, "{name}");
    }
}

#[test]
fn an_answer_that_is_cut_off_is_none() {
    for (text, _, body, _) in ANSWERS {
        // Without a length nobody knows.
        let known = if text.contains("Content-Length") || text.contains("chunked") {
            text.len()
        } else {
            text.len() - body.len()
        };
        for end in 0..known {
            let cut = text.as_bytes().get(..end).unwrap();
            assert!(read([cut]).is_err(), "{:?}", String::from_utf8_lossy(cut));
        }
    }
}

/// Answers that can be read in two ways, or in none, and what is said of them.
const FAULTY: [(&str, &str); 37] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", "two lengths"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", "two lengths"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab", "no number"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nab", "no number"),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "a length and is in chunks",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "a length and is in chunks",
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "coding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "coding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "coding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "coding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "coding"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "header value"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "header name"),
    ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0"),
    ("HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 2\r\n\r\nab", "header name"),
    ("HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nab", "header name"),
    ("HTTP/1.1 200 OK\r\nX: a\rContent-Length: 2\r\n\r\nab", "header value"),
    ("HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nab", "header value"),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "changes the protocol"),
    ("HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nab", "version"),
    ("HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nab", "status"),
    ("HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nab", "status"),
    ("{\"jsonrpc\":\"2.0\"}", "version"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nab", "size of a chunk"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\nab", "size of a chunk"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n", "size of a chunk"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 2\r\nab\r\n0\r\n\r\n", "size of a chunk"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nab", "size of a chunk"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", "does not end"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;\r;\r\nab\r\n0\r\n\r\n", "does not end"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", "longer than was said"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\n\r\n", "does not end"),
];

#[test]
fn an_answer_has_limits_at_which_it_is_read_and_behind_which_it_is_not() {
    let head = |lines: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(lines));
    assert!(read([head(HEADERS_MAX).as_bytes()]).is_ok());
    assert!(read([head(HEADERS_MAX + 1).as_bytes()]).unwrap_err().contains("too many headers"));

    let long = |bytes: usize| format!("HTTP/1.1 204 OK\r\nA: {}\r\n\r\n", "b".repeat(bytes - 24));
    assert!(read([long(HEAD_BYTES_MAX).as_bytes()]).is_ok());
    assert!(read([long(HEAD_BYTES_MAX + 1).as_bytes()]).unwrap_err().contains("longer than"));
    let endless = "HTTP/1.1 200 OK\r\nA: ".to_owned() + &"b".repeat(HEAD_BYTES_MAX);
    assert!(read([endless.as_bytes()]).unwrap_err().contains("longer than"));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let many = interim.repeat(HEAD_BYTES_MAX / interim.len() + 1);
    assert!(read([many.as_bytes()]).unwrap_err().contains("longer than"));

    let chunked = |line: &str, trailers: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{line}\r\nab\r\n0\r\n{trailers}\r\n")
    };
    let extended = |bytes: usize| chunked(&format!("2;{}", "a".repeat(bytes - 4)), "");
    assert!(read([extended(CHUNK_LINE_MAX).as_bytes()]).is_ok());
    assert!(read([extended(CHUNK_LINE_MAX + 1).as_bytes()]).unwrap_err().contains("longer than"));
    let trailers = |bytes: usize| chunked("2", &format!("A: {}\r\n", "b".repeat(bytes - 7)));
    assert!(read([trailers(HEAD_BYTES_MAX).as_bytes()]).is_ok());
    assert!(read([trailers(HEAD_BYTES_MAX + 1).as_bytes()]).unwrap_err().contains("longer than"));
}

/// What the server is asked.
static QUESTION: Bytes = Bytes::from_static(b"question");

/// A server that writes what a test has it write.
struct Server {
    listener: TcpListener,
    direct: Arc<Direct>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp?a=b", listener.local_addr().unwrap());
        Server { direct: Direct::new(&url.parse().unwrap()).unwrap(), listener }
    }

    async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap().0
    }

    async fn send(&self, body: &Bytes) -> Result<Response, Failed> {
        let head = self.direct.head(&Method::POST, &HeaderMap::new());
        timeout(PATIENCE, self.direct.send(&head, iter::empty(), body)).await.unwrap()
    }

    async fn ask(&self) -> Answer {
        let response = self.send(&QUESTION).await.map_err(|failed| failed.reason)?;
        whole(response).await
    }

    /// Connections that wait.
    fn idle(&self) -> usize {
        self.direct.idle.lock().unwrap().len()
    }

    /// Wait until the connection that waits hears something.
    async fn hears(&self) {
        let link = |idle: &Idle| idle.link.stream.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        let heard = async {
            while !self.direct.idle.lock().unwrap().iter().all(|idle| link(idle).is_ready()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, heard).await.unwrap();
    }
}

async fn whole(mut response: Response) -> Answer {
    let mut body = Vec::new();
    while let Some(part) = timeout(PATIENCE, response.chunk()).await.unwrap()? {
        body.extend_from_slice(&part);
    }
    Ok((response.status().as_u16(), body))
}

/// Read one request.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("question") {
        let mut bytes = [0; 1000];
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert!(read > 0, "{text:?}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    text
}

async fn answer(stream: &mut TcpStream, text: &str) {
    request(stream).await;
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Wait until the client closes the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0; 100])).await.unwrap(), Ok(0) | Err(_))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn ok() -> Answer {
    Ok((200, b"ok".to_vec()))
}

#[tokio::test]
async fn a_request_is_what_was_asked_for_and_its_end_is_known() {
    let server = Server::start().await;
    let asking = async {
        let headers = [("b", "c"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("d", "e")];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let head = server.direct.head(&Method::POST, &headers.into_iter().collect());
        let more = iter::once(("x", &b"y"[..]));
        whole(server.direct.send(&head, more, &QUESTION).await.unwrap()).await.unwrap();
    };
    let answering = async {
        let mut stream = server.accept().await;
        let request = request(&mut stream).await;
        let host = server.listener.local_addr().unwrap();
        let text = format!(
            "POST /mcp?a=b HTTP/1.1\r\nhost: {host}\r\nb: c\r\nd: e\r\nx: y\r\ncontent-length: 8\r\n\r\nquestion"
        );
        assert_eq!(request, text);
        stream.write_all(OK.as_bytes()).await.unwrap();
    };
    tokio::join!(asking, answering);
}

#[tokio::test]
async fn a_connection_is_used_again_after_an_answer_that_allows_it() {
    let server = Server::start().await;
    for (text, status, body, lives) in ANSWERS {
        let answering = async {
            let mut stream = server.accept().await;
            answer(&mut stream, text).await;
            if !lives {
                stream.shutdown().await.unwrap();
                assert!(is_closed(&mut stream).await, "{text}");
                stream = server.accept().await;
            }
            answer(&mut stream, OK).await;
            stream
        };
        let asking = async {
            assert_eq!(server.ask().await, Ok((status, body.as_bytes().to_vec())), "{text}");
            assert_eq!(server.idle(), usize::from(lives), "{text}");
            assert_eq!(server.ask().await, ok(), "{text}");
        };
        tokio::join!(answering, asking);
        server.direct.idle.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn after_a_faulty_answer_the_connection_is_closed() {
    let server = Server::start().await;
    for (text, reason) in FAULTY {
        let (asked, ()) = tokio::join!(server.ask(), async {
            let mut stream = server.accept().await;
            answer(&mut stream, text).await;
            assert!(is_closed(&mut stream).await, "{text}");
        });
        let said = asked.unwrap_err();
        assert!(said.contains(reason), "{text:?} {said}");
        assert_eq!(server.idle(), 0, "{text}");
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_answers_nobody() {
    let server = Server::start().await;
    for (text, status, body, _) in ANSWERS.into_iter().filter(|(_, _, _, lives)| *lives) {
        for more in ["x", OK, "\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let with_the_answer = async {
                let mut stream = server.accept().await;
                answer(&mut stream, &format!("{text}{more}")).await;
                assert!(is_closed(&mut stream).await, "{text}{more}");
            };
            let (asked, ()) = tokio::join!(server.ask(), with_the_answer);
            assert_eq!(asked, Ok((status, body.as_bytes().to_vec())), "{text}{more}");
            assert_eq!(server.idle(), 0, "{text}{more}");

            let (asked, mut stream) = tokio::join!(server.ask(), async {
                let mut stream = server.accept().await;
                answer(&mut stream, text).await;
                stream
            });
            assert_eq!(asked, Ok((status, body.as_bytes().to_vec())), "{text}{more}");
            stream.write_all(more.as_bytes()).await.unwrap();
            server.hears().await;
            let (asked, ()) = tokio::join!(server.ask(), async {
                assert!(is_closed(&mut stream).await, "{text}{more}");
                answer(&mut server.accept().await, OK).await;
            });
            assert_eq!(asked, ok(), "{text}{more}");
            server.direct.idle.lock().unwrap().clear();
        }
    }
}

#[tokio::test]
async fn a_connection_that_ended_while_it_waited_is_not_used() {
    let server = Server::start().await;
    let (asked, stream) = tokio::join!(server.ask(), async {
        let mut stream = server.accept().await;
        answer(&mut stream, OK).await;
        stream
    });
    assert_eq!((asked, server.idle()), (ok(), 1));
    drop(stream);
    server.hears().await;
    let (asked, ()) = tokio::join!(server.ask(), async { answer(&mut server.accept().await, OK).await });
    assert_eq!(asked, ok());
}

#[tokio::test]
async fn a_request_that_was_begun_is_never_sent_again() {
    let server = Server::start().await;
    let answering = async {
        let mut stream = server.accept().await;
        answer(&mut stream, OK).await;
        request(&mut stream).await;
        drop(stream); // after all of the request was read, and maybe acted upon
        answer(&mut server.accept().await, OK).await;
    };
    let asking = async {
        assert_eq!(server.ask().await, ok());
        let failed = server.send(&QUESTION).await.err().unwrap();
        assert!(!failed.is_unsent, "{}", failed.reason);
        assert_eq!(server.ask().await, ok(), "what the server hears next is the next question");
    };
    tokio::join!(answering, asking);
}

#[tokio::test]
async fn a_request_of_which_nothing_was_sent_goes_out_on_another_connection() {
    let server = Server::start().await;
    let answering = async {
        let mut first = server.accept().await;
        answer(&mut first, OK).await;
        answer(&mut server.accept().await, OK).await;
        first // open: nothing but the attempt tells
    };
    let asking = async {
        assert_eq!(server.ask().await, ok());
        let mut link = server.direct.take().unwrap();
        link.stream.shutdown().await.unwrap();
        server.direct.put_back(link);
        assert_eq!(server.ask().await, ok());
    };
    tokio::join!(answering, asking);
}

#[tokio::test]
async fn who_asks_no_more_or_hears_no_more_closes_the_connection() {
    let server = Server::start().await;
    let mut asking = Box::pin(server.ask());
    let mut stream = tokio::select! {
        _ = &mut asking => panic!("nobody has answered"),
        stream = async {
            let mut stream = server.accept().await;
            request(&mut stream).await;
            stream
        } => stream,
    };
    drop(asking);
    assert!(is_closed(&mut stream).await);

    let (response, mut stream) = tokio::join!(server.send(&QUESTION), async {
        let mut stream = server.accept().await;
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it").await;
        stream
    });
    let mut response = response.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "half of it");
    drop(response);
    assert!(is_closed(&mut stream).await);
    assert_eq!(server.idle(), 0);
}

#[tokio::test]
async fn a_connection_whose_answer_ends_soon_though_nobody_waits_for_it_is_used_again() {
    let server = Server::start().await;
    const BEGUN: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let begin = async |stream: &mut TcpStream, rest: &str| {
        let text = format!("{BEGUN}{rest}");
        let (response, ()) = tokio::join!(server.send(&QUESTION), answer(stream, &text));
        let mut response = response.unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "hello");
        response.release();
    };
    let (asked, mut stream) = tokio::join!(server.ask(), async {
        let mut stream = server.accept().await;
        answer(&mut stream, OK).await;
        stream
    });
    assert_eq!(asked, ok());
    begin(&mut stream, "0\r\n\r\n").await;
    assert_eq!(server.idle(), 1, "at once, as its end had come");

    begin(&mut stream, "").await;
    assert_eq!(server.idle(), 0);
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    server.direct.ending.close();
    timeout(PATIENCE, server.direct.ending.wait()).await.unwrap();
    assert_eq!(server.idle(), 1, "once its end has come");

    begin(&mut stream, "").await;
    let more = format!("{:x}\r\n{}", 1 << 20, "x".repeat(ENDING_BYTES_MAX + 1));
    let _ = stream.write_all(more.as_bytes()).await; // it may not be read to its end
    timeout(PATIENCE, server.direct.ending.wait()).await.unwrap();
    assert_eq!(server.idle(), 0, "it goes on");

    let (asked, mut stream) = tokio::join!(server.ask(), async {
        let mut stream = server.accept().await;
        answer(&mut stream, OK).await;
        stream
    });
    assert_eq!(asked, ok());
    begin(&mut stream, "").await;
    assert!(is_closed(&mut stream).await, "its end did not come");
}

#[tokio::test]
async fn a_connection_that_broke_off_within_an_answer_tells_so_however_often_it_is_asked() {
    let server = Server::start().await;
    let (response, ()) = tokio::join!(server.send(&QUESTION), async {
        let mut stream = server.accept().await;
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it").await;
    });
    let mut response = response.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "half of it");
    assert!(response.chunk().await.unwrap_err().contains("in the middle"));
    assert!(response.chunk().await.is_err());
    assert_eq!(server.idle(), 0);
}

/// More than a connection holds on its way.
fn large() -> Bytes {
    Bytes::from(iter::repeat_n(b'q', 10_000_000).collect::<Vec<u8>>())
}

async fn read_head(stream: &mut TcpStream) -> usize {
    let mut text = Vec::new();
    while memchr::memmem::find(&text, b"\r\n\r\n").is_none() {
        timeout(PATIENCE, stream.read_buf(&mut text)).await.unwrap().unwrap();
    }
    text.len() - memchr::memmem::find(&text, b"\r\n\r\n").unwrap() - 4
}

#[tokio::test]
async fn a_server_may_refuse_a_request_that_it_has_not_read() {
    let server = Server::start().await;
    let asking = async { whole(server.send(&large()).await.unwrap()).await };
    let (asked, _stream) = tokio::join!(asking, async {
        let mut stream = server.accept().await;
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!").await.unwrap();
        stream // open, and nothing more is read from it
    });
    assert_eq!(asked, Ok((413, b"no!".to_vec())));
    assert_eq!(server.idle(), 0, "the server still waits for the request's end");
}

#[tokio::test]
async fn a_server_may_begin_its_answer_before_it_has_read_the_request() {
    let server = Server::start().await;
    let asking = async { whole(server.send(&large()).await.unwrap()).await };
    let (asked, ()) = tokio::join!(asking, async {
        let mut stream = server.accept().await;
        let begun = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
        let mut rest = vec![0; large().len() - begun];
        timeout(PATIENCE, stream.read_exact(&mut rest)).await.unwrap().unwrap();
        stream.write_all(b"ok").await.unwrap();
    });
    assert_eq!((asked, server.idle()), (ok(), 1));
}

#[tokio::test]
async fn ten_megabytes_come_in_every_framing() {
    let (server, body) = (Server::start().await, large());
    let chunk = [&format!("{:x}\r\n", body.len() / 10).into_bytes(), &body[..body.len() / 10], b"\r\n"].concat();
    for (head, text) in [
        (format!("Content-Length: {}\r\n", body.len()), body.to_vec()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), [chunk.repeat(10), b"0\r\n\r\n".to_vec()].concat()),
        (String::new(), body.to_vec()),
    ] {
        let (asked, ()) = tokio::join!(server.ask(), async {
            let mut stream = server.accept().await;
            answer(&mut stream, &format!("HTTP/1.1 200 OK\r\n{head}\r\n")).await;
            stream.write_all(&text).await.unwrap();
        });
        assert!(asked.unwrap().1 == body, "{head}");
        server.direct.idle.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_server_may_write_byte_by_byte() {
    let server = Server::start().await;
    for (text, status, body, _) in ANSWERS {
        let (asked, ()) = tokio::join!(server.ask(), async {
            let mut stream = server.accept().await;
            stream.set_nodelay(true).unwrap();
            request(&mut stream).await;
            for byte in text.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(asked, Ok((status, body.as_bytes().to_vec())), "{text}");
        server.direct.idle.lock().unwrap().clear();
    }
}

/// Bytes that are an answer, nearly one, or none.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.0 200 OK\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "\r\n",
        "\r",
        "\n",
        "hello",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "ffffffffffffffff\r\n",
        " ",
        ":",
        OK,
    ];
    let piece = prop_oneof![
        12 => prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    let whole = prop::sample::select(ANSWERS.to_vec()).prop_map(|(text, ..)| text.as_bytes().to_vec());
    let begun = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    let started = begun.clone().prop_map(|rest| [b"HTTP/1.1 200 OK\r\n", rest.as_slice()].concat());
    prop_oneof![
        begun,
        started,
        (whole.clone(), prop::option::of(whole)).prop_map(|(a, b)| [a, b.unwrap_or_default()].concat())
    ]
}

proptest! {
    #[test]
    fn whatever_comes_it_means_the_same_wherever_it_is_split(bytes in bytes(), at in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let mut at: Vec<usize> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
        at.sort_unstable();
        let (mut parts, mut from) = (Vec::new(), 0);
        for to in at.into_iter().chain([bytes.len()]) {
            parts.push(&bytes[from..to]);
            from = to;
        }
        // Which of two faults is seen first may differ.
        prop_assert_eq!(read(parts).ok(), read([bytes.as_slice()]).ok());
    }

    #[test]
    fn whatever_comes_is_an_answer_or_an_error_and_only_a_connection_without_a_rest_is_kept(bytes in bytes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start().await;
            let (asked, stream) = tokio::join!(server.ask(), async {
                let mut stream = server.accept().await;
                request(&mut stream).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await; // else it could wait for more
                stream
            });
            let expected = read([bytes.as_slice()]);
            prop_assert_eq!(asked.ok(), expected.clone().ok().map(|(status, body, ..)| (status, body)));
            let lives = matches!(&expected, Ok((_, _, rest, true)) if rest.is_empty());
            prop_assert_eq!(server.idle(), usize::from(lives));
            prop_assert!(server.direct.idle.lock().unwrap().iter().all(|idle| idle.link.input.is_empty()));
            drop(stream);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_body_whose_length_is_known_comes_in_one_piece_or_not_at_all() {
    const BYTES: usize = 3 * BUFFER_SIZE_MAX;
    let server = Server::start().await;
    let body = vec![b'x'; BYTES];
    let ask = async |bytes_max: usize| {
        let mut response = server.send(&QUESTION).await.unwrap();
        timeout(PATIENCE, response.whole(bytes_max)).await.unwrap()
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
    let (asked, mut stream) = tokio::join!(ask(BYTES), async {
        let mut stream = server.accept().await;
        answer(&mut stream, &head).await;
        for part in body.chunks(BYTES / 5) {
            stream.write_all(part).await.unwrap();
        }
        stream
    });
    assert!(asked.unwrap().unwrap() == body);
    assert_eq!(server.idle(), 1);
    assert_eq!(server.direct.idle.lock().unwrap()[0].link.input.capacity(), 0, "its memory is the body's");
    let (asked, ()) = tokio::join!(ask(BYTES), answer(&mut stream, OK));
    assert_eq!(asked.unwrap().unwrap(), "ok");
    let (asked, ()) = tokio::join!(ask(BYTES), async {
        answer(&mut stream, &head).await;
        stream.write_all(&body[1..]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    assert!(asked.unwrap_err().contains("in the middle"));
    assert_eq!(server.idle(), 0);
    for (text, bytes_max) in [(OK, 1), ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BYTES)] {
        let (asked, ()) = tokio::join!(ask(bytes_max), async { answer(&mut server.accept().await, text).await });
        assert_eq!(asked, Ok(None), "its parts are to be taken");
    }
}
