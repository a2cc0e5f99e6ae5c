//! A caller that costs little beside what it calls: one kept connection, one request at a time, and just enough HTTP.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Bytes of an answer that an error shows.
const SHOWN_MAX: usize = 2000;

/// A connection to a server of HTTP/1.1.
pub struct Connection {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

/// What a server answered.
pub struct Answer<'a> {
    address: &'a str,
    whole: &'a [u8],
    /// Where the body begins.
    body: usize,
}

impl Connection {
    /// Connect to an address with its port.
    pub async fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, address: address.to_owned(), buffer: Vec::with_capacity(1 << 16) })
    }

    /// Send a request, and receive its whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut scanned = Scan::default();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((body, end)) = scanned.ends(&self.buffer) {
                return Ok(Answer { address: &self.address, whole: &self.buffer[..end], body });
            }
        }
    }

    /// The stream, after its last answer.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl Answer<'_> {
    /// The status; 0 if there is none.
    pub fn status(&self) -> u16 {
        let status = self.whole.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
        status.and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// A header's value, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(std::str::from_utf8(&self.whole[..self.body]).ok()?, name)
    }

    /// The body; chunks as they came.
    pub fn body(&self) -> &[u8] {
        &self.whole[self.body..]
    }

    /// An error that shows what was answered.
    pub fn into_error(self) -> io::Error {
        let shown = String::from_utf8_lossy(&self.whole[..self.whole.len().min(SHOWN_MAX)]);
        io::Error::other(format!("{} answered: {shown}", self.address))
    }
}

/// How much of an answer is known.
#[derive(Default)]
struct Scan {
    /// Where the head ends, and the length of the body; `None` if it comes in chunks.
    head: Option<(usize, Option<usize>)>,
    /// Where the next chunk begins.
    chunk: usize,
}

impl Scan {
    fn ends(&mut self, answer: &[u8]) -> Option<(usize, usize)> {
        if self.head.is_none() {
            let end = find(answer, b"\r\n\r\n")? + 4;
            let head = std::str::from_utf8(&answer[..end]).ok()?;
            let has_none = ["101", "202", "204"].iter().any(|status| head[9..].starts_with(status));
            let length = header(head, "content-length").and_then(|length| length.parse().ok());
            let is_chunked = header(head, "transfer-encoding").is_some();
            self.head = Some((end, length.or((has_none && !is_chunked).then_some(0))));
            self.chunk = end;
        }
        let (head, length) = self.head?;
        if let Some(length) = length {
            return (head + length <= answer.len()).then_some((head, head + length));
        }
        loop {
            let line = answer.get(self.chunk..)?;
            let end = find(line, b"\r\n")?;
            let size = std::str::from_utf8(&line[..end]).ok()?.split(';').next()?.trim();
            let size = usize::from_str_radix(size, 16).ok()?;
            let next = self.chunk + end + 2 + size + 2;
            if next > answer.len() {
                return None;
            }
            self.chunk = next;
            if size == 0 {
                return Some((head, next));
            }
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Where a text has another one first.
pub fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
