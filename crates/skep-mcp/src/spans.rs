//! Where the members of an object are in its text.
//!
//! The text is known to be valid JSON: it was read before, or written here. So the end of a value is looked for, and not whether it
//! is one, which takes a fraction of the time; and what is changed in an object is put between pieces of its text.

use std::borrow::Cow;

/// A member of an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Span<'a> {
    pub(crate) name: Cow<'a, str>,
    /// The name as it was written, in its quotation marks.
    pub(crate) quoted: &'a str,
    /// The value as it was written.
    pub(crate) value: &'a str,
}

/// The members of an object, in their order; `None` for another value.
pub(crate) fn members(object: &str) -> Option<impl Iterator<Item = Span<'_>>> {
    let inside = object.trim_ascii().strip_prefix('{')?;
    Some(Members { rest: inside })
}

struct Members<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Members<'a> {
    type Item = Span<'a>;

    fn next(&mut self) -> Option<Span<'a>> {
        let rest = self.rest.trim_ascii_start();
        let (quoted, rest) = cut(rest.strip_prefix(',').unwrap_or(rest))?;
        let (value, rest) = cut(rest.trim_ascii_start().strip_prefix(':')?)?;
        self.rest = rest;
        let plain = quoted.strip_prefix('"')?.strip_suffix('"')?;
        let is_escaped = memchr::memchr(b'\\', plain.as_bytes()).is_some();
        let name = if is_escaped { Cow::Owned(serde_json::from_str(quoted).ok()?) } else { Cow::Borrowed(plain) };
        Some(Span { name, quoted, value })
    }
}

/// Cut off the value that the text begins with; `None` where none begins.
fn cut(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_ascii_start();
    let bytes = text.as_bytes();
    let mut end = 0;
    let mut depth = 0_usize;
    loop {
        match bytes.get(end)? {
            b'"' => end = after_string(bytes, end)?,
            b'{' | b'[' => {
                depth += 1;
                end += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                end += 1;
            }
            _ if depth > 0 => end += 1,
            b',' | b':' => return None,
            _ => {
                let is_over = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                end = bytes.iter().position(is_over).unwrap_or(bytes.len());
            }
        }
        if depth == 0 {
            return text.split_at_checked(end);
        }
    }
}

/// Where the string ends that begins here.
fn after_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        let found = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[found] == b'"' {
            return Some(found + 1);
        }
        at = found + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};

    use super::*;
    use crate::server;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\[\\]{}\",:\\\\ \\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let name = prop_oneof![any::<String>(), "[\\[\\]{}\",:\\\\ ]{0,4}", Just("_meta".to_owned())];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn members_are_where_a_parser_finds_them(value in value(), is_pretty: bool) {
            let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let text = RawValue::from_string(text).unwrap();
            let found = members(text.get()).map(|members| {
                members.map(|span| (span.name.into_owned(), span.value.to_owned())).collect::<Vec<_>>()
            });
            let parsed = server::Members::parse(&text).map(|members| {
                members.iter().map(|(name, value)| (name.to_owned(), value.get().to_owned())).collect::<Vec<_>>()
            });
            prop_assert_eq!(found, parsed);
        }

        #[test]
        fn what_is_not_json_does_no_harm(text in "[\\[\\]{}\",:\\\\ a1ä]{0,40}") {
            members(&text).into_iter().flatten().for_each(drop);
        }
    }
}
