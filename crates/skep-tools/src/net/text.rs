//! Bodies as text.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use reqwest::header;

use super::Response;

/// Bytes at the beginning of a page in which its encoding may be declared (HTML standard, "prescan a byte stream").
const DECLARATION_WITHIN: usize = 1024;

impl Response {
    /// The media type, without parameters and in small letters; empty if the server does not say.
    pub fn media_type(&self) -> String {
        let (media_type, _) = self.content_type();
        media_type
    }

    /// The body as text, or `None` if it is none. A byte order mark counts most, then what the server says, then what
    /// the page says; otherwise it is UTF-8, or, where the server insists on text, what browsers assume.
    pub fn text(&self) -> Option<String> {
        let (media_type, charset) = self.content_type();
        let is_html = media_type == "text/html" || media_type == "application/xhtml+xml";
        let named = charset.as_deref().and_then(|label| Encoding::for_label(label.as_bytes()));
        let declared = || declared_in_page(&self.body).filter(|_| is_html);
        let marked = Encoding::for_bom(&self.body).map(|(encoding, _)| encoding);
        if let Some(encoding) = marked.or(named).or_else(declared).filter(|encoding| *encoding != UTF_8) {
            return Some(encoding.decode(&self.body).0.into_owned());
        }
        let body = self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body);
        if body.contains(&0) {
            return None;
        }
        match std::str::from_utf8(body) {
            Ok(text) => Some(text.to_owned()),
            // The limit may have cut the last character in two.
            Err(error) if self.truncated && error.error_len().is_none() => {
                Some(String::from_utf8_lossy(&body[..error.valid_up_to()]).into_owned())
            }
            Err(_) if named.is_some() => Some(String::from_utf8_lossy(body).into_owned()),
            Err(_) if media_type.starts_with("text/") => Some(WINDOWS_1252.decode(body).0.into_owned()),
            Err(_) => None,
        }
    }

    /// Media type and charset.
    fn content_type(&self) -> (String, Option<String>) {
        let line = self.headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let mut parts = line.as_deref().unwrap_or_default().split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_owned())
        });
        (media_type, charset)
    }
}

/// The encoding in `<meta charset=…>` or `<meta http-equiv=… content="…; charset=…">`.
fn declared_in_page(body: &[u8]) -> Option<&'static Encoding> {
    let head = &body[..body.len().min(DECLARATION_WITHIN)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    head.split("<meta").skip(1).find_map(|meta| {
        let (_, value) = meta.split_once('>')?.0.split_once("charset")?;
        let value = value.trim_start().strip_prefix('=')?.trim_start_matches([' ', '"', '\'']);
        let label = value.split(['"', '\'', ' ', ';', '/']).next()?;
        // A page that was readable up to here cannot be UTF-16, whatever it says.
        Encoding::for_label(label.as_bytes()).map(Encoding::output_encoding)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content_type: &str, body: &[u8], truncated: bool) -> Option<String> {
        let mut headers = header::HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        let url = "http://example.com/".parse().unwrap();
        Response { url, status: reqwest::StatusCode::OK, headers, body: body.to_owned(), truncated }.text()
    }

    #[test]
    fn text_is_read_in_the_encoding_that_it_was_written_in() {
        for (content_type, body) in [
            ("text/plain; charset=iso-8859-1", b"caf\xe9".as_slice()),
            ("text/plain; Charset=\"latin1\"", b"caf\xe9"),
            ("text/plain", b"caf\xe9"),
            ("text/plain", b"caf\xc3\xa9"),
            ("", b"caf\xc3\xa9"),
            ("application/json", b"\xef\xbb\xbfcaf\xc3\xa9"),
            ("application/octet-stream", b"caf\xc3\xa9"),
            ("text/plain; charset=iso-8859-1", b"\xef\xbb\xbfcaf\xc3\xa9"),
            ("text/plain", b"\xff\xfec\0a\0f\0\xe9\0"),
        ] {
            assert_eq!(text(content_type, body, false).as_deref(), Some("café"), "{content_type} {body:?}");
        }
        let page = b"<html><META http-equiv=Content-Type content='text/html; charset=koi8-r'><p>\xc4\xc1";
        assert!(text("text/html", page, false).unwrap().ends_with("<p>да"));
        assert!(text("text/plain", page, false).unwrap().ends_with("ÄÁ"), "only a page declares");
    }

    #[test]
    fn bytes_that_are_no_text_are_not_made_into_some() {
        for content_type in ["", "image/png", "application/pdf", "text/plain"] {
            assert_eq!(text(content_type, b"\x89PNG\r\n\x1a\n\0\0\0", false), None, "{content_type}");
        }
        assert_eq!(text("application/pdf", b"%PDF\xe9", false), None);
    }

    #[test]
    fn a_character_that_the_limit_cut_is_left_out() {
        assert_eq!(text("", b"caf\xc3", true).as_deref(), Some("caf"));
        assert_eq!(text("", b"caf\xc3", false), None);
    }
}
