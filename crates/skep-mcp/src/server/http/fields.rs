//! The header fields of a request, wherever it was read (RFC 9110, 5).

use axum::http::HeaderMap;

/// Names and values in their order, as they were written: names mean the same in either case, values may be any bytes. A request
/// has a dozen of them, so that looking through all takes less than building a table.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Fields<'a> {
    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The same, if it is text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(text)
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// A value, if it is text: visible ASCII, blanks and tabs. Other bytes mean nothing that all agree on (RFC 9110, 5.5).
pub fn text(value: &[u8]) -> Option<&str> {
    // All are looked at, many at once, since hardly any is another.
    let is_text = value.iter().fold(true, |is_text, byte| is_text & matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| is_text)
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Fields<'a> {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a [u8])>>(fields: T) -> Fields<'a> {
        Fields(fields.into_iter().collect())
    }
}

impl<'a> From<&'a HeaderMap> for Fields<'a> {
    fn from(headers: &'a HeaderMap) -> Fields<'a> {
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }
}
