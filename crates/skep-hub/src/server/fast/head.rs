//! The heads of requests that the fast path takes.

use memchr::{memchr_iter, memmem};
use skep_mcp::server::http::Fields;

/// How a request begins that the fast path takes.
const REQUEST_LINE: &[u8] = b"POST /mcp HTTP/1.1\r\n";
/// The end of a head.
const END: &[u8] = b"\r\n\r\n";
/// Bytes of a head. For longer ones hyper has a limit of its own.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields of a head.
const FIELDS_MAX: usize = 64;
/// Fields that change how a request is to be read or answered. One with an origin comes from a web page, which wants to hear
/// more ([`cors`](super::super::cors)).
const DECISIVE: [&str; 7] =
    ["content-length", "connection", "transfer-encoding", "upgrade", "expect", "content-encoding", "origin"];

/// What there is of a head at the beginning of a buffer.
pub(super) enum Found {
    /// A whole one of so many bytes, for [`read_head`] to look at.
    Head(usize),
    /// A part of one.
    Part,
    /// A request for hyper.
    SomethingElse,
}

/// Look for the end of a head. `searched`: how far the same buffer was looked through before.
pub(super) fn find_head(buffer: &[u8], searched: &mut usize) -> Found {
    let begins = buffer.len().min(REQUEST_LINE.len());
    if buffer[..begins] != REQUEST_LINE[..begins] {
        return Found::SomethingElse;
    }
    let from = searched.saturating_sub(END.len() - 1);
    match memmem::find(&buffer[from..], END).map(|at| from + at + END.len()) {
        Some(bytes) if bytes <= HEAD_BYTES_MAX => Found::Head(bytes),
        // To hyper a line may end without its CR (RFC 9112, 2.2), and so may a head, whose end is not looked for here.
        None if buffer.len() <= HEAD_BYTES_MAX && !has_bare_newline(buffer, from) => {
            *searched = buffer.len();
            Found::Part
        }
        _ => Found::SomethingElse,
    }
}

fn has_bare_newline(buffer: &[u8], from: usize) -> bool {
    memchr_iter(b'\n', &buffer[from..]).any(|at| !buffer[..from + at].ends_with(b"\r"))
}

/// The fields of a head, and the length of the body that follows; `None` if the request is one for hyper.
pub(super) fn read_head(head: &[u8]) -> Option<(Fields<'_>, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let lines = head.get(REQUEST_LINE.len()..)?;
    let fields = match httparse::parse_headers(lines, &mut fields) {
        Ok(httparse::Status::Complete((bytes, fields))) if bytes == lines.len() => fields,
        _ => return None,
    };
    let mut length = None;
    for field in fields.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") && length.is_none() {
            length = Some(read_length(field.value)?);
            continue;
        }
        let stays_open = is("connection") && field.value.eq_ignore_ascii_case(b"keep-alive");
        if !stays_open && DECISIVE.into_iter().any(is) {
            return None;
        }
    }
    Some((fields.iter().map(|field| (field.name, field.value)).collect(), length?))
}

fn read_length(value: &[u8]) -> Option<usize> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn head(headers: &str) -> Bytes {
        Bytes::from([std::str::from_utf8(REQUEST_LINE).unwrap(), headers, "\r\n"].concat())
    }

    #[test]
    fn a_head_is_found_whole_wherever_it_is_cut() {
        let whole = [&head("host: a\r\ncontent-length: 2\r\n")[..], b"{}"].concat();
        let (mut searched, bytes) = (0, whole.len() - 2);
        for cut in 0..bytes {
            assert!(matches!(find_head(&whole[..cut], &mut searched), Found::Part), "{cut}");
        }
        for cut in bytes..=whole.len() {
            assert!(matches!(find_head(&whole[..cut], &mut 0), Found::Head(found) if found == bytes));
            assert!(matches!(find_head(&whole[..cut], &mut searched.clone()), Found::Head(found) if found == bytes));
        }
    }

    #[test]
    fn what_does_not_begin_as_it_must_is_seen_at_its_first_byte() {
        for other in
            ["GET / HTTP/1.1\r\n", "POST /mcp?a HTTP/1.1\r\n", "POST /mcp HTTP/1.0\r\n", "\r\nPOST", "\x16\x03", "post"]
        {
            assert!(matches!(find_head(other.as_bytes(), &mut 0), Found::SomethingElse), "{other:?}");
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_for_hyper_whether_its_end_has_come_or_not() {
        let padding = |bytes: usize| "a".repeat(bytes - REQUEST_LINE.len() - "a: \r\n\r\n".len());
        let of = |bytes| head(&format!("a: {}\r\n", padding(bytes)));
        assert!(matches!(find_head(&of(HEAD_BYTES_MAX), &mut 0), Found::Head(HEAD_BYTES_MAX)));
        let longer = of(HEAD_BYTES_MAX + 1);
        assert!(matches!(find_head(&longer[..HEAD_BYTES_MAX], &mut 0), Found::Part));
        assert!(matches!(find_head(&longer, &mut 0), Found::SomethingElse));
        assert!(matches!(find_head(&longer, &mut { HEAD_BYTES_MAX }), Found::SomethingElse));
        let endless = [REQUEST_LINE, &[b'a'; HEAD_BYTES_MAX]].concat();
        assert!(matches!(find_head(&endless, &mut 0), Found::SomethingElse));
    }

    #[test]
    fn the_end_of_a_head_without_carriage_returns_is_not_waited_for() {
        for lines in ["host: a\n", "host: a\n\n", "host: a\r\n\n", "\n", "host: a\r\nx: b\n\r"] {
            let begun = [REQUEST_LINE, lines.as_bytes()].concat();
            assert!(matches!(find_head(&begun, &mut 0), Found::SomethingElse), "{lines:?}");
            let (mut searched, last) = (0, begun.len() - 1);
            find_head(&begun[..last], &mut searched);
            assert!(matches!(find_head(&begun, &mut searched), Found::SomethingElse), "{lines:?}, in two parts");
        }
    }

    #[test]
    fn a_head_keeps_its_fields() {
        let head = head("Host: a\r\nX: 1\r\nx: 2\r\nContent-Length: 17\r\nConnection: Keep-Alive\r\n");
        let (headers, length) = read_head(&head).unwrap();
        assert_eq!((headers.text("host"), length), (Some("a"), 17));
        assert!(headers.all("x").eq([b"1", b"2"]));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_for_hyper() {
        let many = "a: 1\r\n".repeat(FIELDS_MAX);
        for headers in [
            "",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1\r\nContent-Length: 2\r\n",
            "content-length: 1, 1\r\n",
            "content-length: +1\r\n",
            "content-length: -1\r\n",
            "content-length: 0x1\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999999\r\n",
            "content-length : 1\r\n",
            "content-length: 1\r\n folded: 1\r\n",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\n",
            "content-length: 1\r\nconnection: close\r\n",
            "content-length: 1\r\nconnection: keep-alive, upgrade\r\n",
            "content-length: 1\r\nupgrade: h2c\r\n",
            "content-length: 1\r\nexpect: 100-continue\r\n",
            "content-length: 1\r\ncontent-encoding: gzip\r\n",
            "content-length: 1\r\norigin: http://localhost\r\n",
            "content-length: 1\r\na b: 1\r\n",
            "content-length: 1\r\na: \x01\r\n",
            "content-length: 1\r\na: \x7f\r\n",
            &format!("content-length: 1\r\n{many}"),
        ] {
            assert!(read_head(&head(headers)).is_none(), "{headers:?}");
        }
    }

    proptest! {
        #[test]
        fn the_length_of_a_body_is_said_once(
            fields in prop::collection::vec(
                prop_oneof![
                    "(?i)content-length: ?[0-9+, ]{0,3}",
                    "(?i)transfer-encoding: (chunked|identity)",
                    "[a-z-]{1,8}: [ -~]{0,8}",
                    "[\\x00-\\x7f]{0,12}",
                ],
                0..8,
            ),
            newline in "(\r\n|\n|\r)",
        ) {
            let text: String = fields.iter().map(|field| format!("{field}{newline}")).collect();
            if let Some((headers, length)) = read_head(&head(&text)) {
                let said: Vec<_> = headers.all("content-length").map(|said| std::str::from_utf8(said).unwrap()).collect();
                prop_assert_eq!(said.len(), 1);
                prop_assert!(said[0].bytes().all(|byte| byte.is_ascii_digit()), "{said:?}"); // `00` is 0
                prop_assert_eq!(said[0].parse(), Ok(length));
                prop_assert!(!headers.has("transfer-encoding"));
            }
        }
    }
}
