//! An answer of HTTP/1.1 (RFC 9112): where its head ends, and where its body does. Knows no connection.
//!
//! Who is mistaken about the end of an answer takes what follows for the next one, and so hands one caller what another asked
//! for. What can be read in two ways is therefore not read at all: two lengths, a length beside a coding, a coding that is not
//! known, a line that is continued or does not end as it must. Each is an error, after which the connection is closed.

use std::mem::MaybeUninit;

use axum::http::StatusCode;
use bytes::{Buf as _, Bytes, BytesMut};

use super::super::is_event_stream;

/// Bytes of all heads of an answer, those of interim answers among them; and those of the trailers behind its body.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Lines of a head.
pub(super) const HEADERS_MAX: usize = 100;
/// Bytes of the line before a chunk, which holds its size and whatever a server adds.
pub(super) const CHUNK_LINE_MAX: usize = 1 << 10;

/// What is wrong with an answer.
pub(super) type Fault = String;

/// The head of an answer.
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// As it came.
    text: Bytes,
    pub(super) body: Body,
    pub(super) is_event_stream: bool,
    /// The connection takes no further request.
    pub(super) is_last: bool,
}

impl Head {
    /// Take the head of an answer out of what has come in; `None` where more must come. Interim answers are skipped. `left`
    /// is what remains of [`HEAD_BYTES_MAX`]; `has_body` is whether an answer to this method has a body at all.
    pub(super) fn take(input: &mut BytesMut, left: &mut usize, has_body: bool) -> Result<Option<Head>, Fault> {
        loop {
            let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let parsed = config.parse_response_with_uninit_headers(&mut answer, input, &mut lines);
            let parsed = parsed.map_err(|error| format!("the head of its answer is not valid: {error}"))?;
            let bytes = if let httparse::Status::Complete(bytes) = parsed { bytes } else { input.len() };
            if bytes > *left {
                return Err(format!("the head of its answer is longer than {HEAD_BYTES_MAX} bytes"));
            }
            if parsed.is_partial() {
                return Ok(None);
            }
            let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
            let Some(status) = status else { return Err("its answer has no valid status".to_owned()) };
            let framing = Framing::read(answer.headers)?;
            let kind = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-type"));
            let is_event_stream = kind.is_some_and(|kind| is_event_stream(kind.value));
            let is_http_1_1 = answer.version == Some(1);
            let text = input.split_to(bytes).freeze();
            *left -= bytes;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err("it changes the protocol, for which nobody asked".to_owned());
            }
            if !status.is_informational() {
                let (body, is_last) = framing.body(status, is_http_1_1, has_body)?;
                return Ok(Some(Head { status, text, body, is_event_stream, is_last }));
            }
        }
    }

    /// The first header of this name.
    pub(super) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers(name).next()
    }

    /// All headers of this name.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        // Read before, and found to be in order; a status line has a blank before any colon.
        let ends = memchr::memchr_iter(b'\n', &self.text);
        let begins = std::iter::once(0).chain(ends.map(|end| end + 1));
        begins.map(|begin| &self.text[begin..]).filter_map(move |lines| {
            let (found, rest) = lines.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name.as_bytes()))?;
            Some(value[..memchr::memchr(b'\n', value)?].trim_ascii())
        })
    }
}

/// What a head says about the end of its body.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
}

impl Framing {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Framing, Fault> {
        let mut framing = Framing::default();
        for httparse::Header { name, value } in headers {
            if name.eq_ignore_ascii_case("content-length") {
                let length = length(value).ok_or("the length of its answer is no number")?;
                if framing.length.replace(length).is_some() {
                    return Err("its answer has two lengths".to_owned());
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") || framing.is_chunked {
                    return Err("its answer is in a transfer coding that nobody asked for".to_owned());
                }
                framing.is_chunked = true;
            } else if name.eq_ignore_ascii_case("connection") {
                let mut options = value.split(|byte| *byte == b',');
                framing.closes |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        Ok(framing)
    }

    /// The body (RFC 9112, 6.3), and whether the connection is of no use after it.
    fn body(self, status: StatusCode, is_http_1_1: bool, has_body: bool) -> Result<(Body, bool), Fault> {
        let closes = self.closes || !is_http_1_1;
        if !has_body || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // A server that announces a body may send it, too.
            return Ok((Body::ENDED, closes || self.is_chunked || self.length.is_some_and(|length| length > 0)));
        }
        match self.length {
            Some(_) if self.is_chunked => Err("its answer has a length and is in chunks as well".to_owned()),
            Some(length) => Ok((Body::Length(length), closes)),
            None if self.is_chunked && !is_http_1_1 => {
                Err("its answer is in chunks, which HTTP/1.0 does not have".to_owned())
            }
            None if self.is_chunked => Ok((Body::ChunkSize, closes)),
            None => Ok((Body::UntilClose, true)),
        }
    }
}

/// A number of bytes: digits, and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// What is to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// The size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk, and the end of its line.
    Chunk(u64),
    /// Lines behind the last chunk, of so many bytes at most.
    Trailers(usize),
    /// All until the server closes the connection.
    UntilClose,
}

impl Body {
    pub(super) const ENDED: Body = Body::Length(0);

    pub(super) fn has_ended(&self) -> bool {
        *self == Body::ENDED
    }

    /// Bytes that are known to come.
    pub(super) fn announced(&self) -> usize {
        match self {
            Body::Length(left) | Body::Chunk(left) => usize::try_from(*left).unwrap_or(usize::MAX),
            Body::ChunkSize | Body::Trailers(_) | Body::UntilClose => 0,
        }
    }

    /// Take the next part out of what has come in; `None` where more must come, or the body has ended.
    pub(super) fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        loop {
            match self {
                Body::Chunk(0) => {
                    let end = &input[..input.len().min(2)];
                    if !b"\r\n".starts_with(end) {
                        return Err("a chunk of its answer is longer than was said".to_owned());
                    }
                    if end.len() < 2 {
                        return Ok(None);
                    }
                    input.advance(2);
                    *self = Body::ChunkSize;
                }
                Body::Length(left) | Body::Chunk(left) => {
                    let bytes = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= bytes as u64;
                    return Ok((bytes > 0).then(|| input.split_to(bytes).freeze()));
                }
                Body::ChunkSize => {
                    let Some(line) = line(input, CHUNK_LINE_MAX)? else { return Ok(None) };
                    let size = chunk_size(&line).ok_or("the size of a chunk of its answer is no number")?;
                    *self = if size == 0 { Body::Trailers(HEAD_BYTES_MAX) } else { Body::Chunk(size) };
                }
                Body::Trailers(left) => {
                    let before = input.len();
                    let Some(line) = line(input, *left)? else { return Ok(None) };
                    *left -= before - input.len();
                    if line.is_empty() {
                        *self = Body::ENDED;
                    }
                }
                Body::UntilClose => return Ok((!input.is_empty()).then(|| input.split().freeze())),
            }
        }
    }

    /// The server has closed the connection.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        if *self != Body::UntilClose {
            return Err("it closed the connection in the middle of its answer".to_owned());
        }
        *self = Body::ENDED;
        Ok(())
    }
}

/// Take out a line, without its end; `None` where more must come.
fn line(input: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, Fault> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(bytes_max)]) else {
        let is_too_long = input.len() >= bytes_max;
        return if is_too_long {
            Err(format!("a line in its answer is longer than {bytes_max} bytes"))
        } else {
            Ok(None)
        };
    };
    let mut line = input.split_to(end + 1);
    let ending = memchr::memchr(b'\r', &line);
    if ending != end.checked_sub(1) || ending.is_none() {
        return Err("a line in its answer does not end as lines of HTTP do".to_owned());
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// A size in hexadecimal digits; extensions behind it mean nothing (RFC 9112, 7.1.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let is_at_end = matches!(rest.trim_ascii_start().first(), None | Some(b';'));
    if !is_at_end {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
