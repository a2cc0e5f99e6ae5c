//! Where the members of an object, and the items of a list, are in its text.
//!
//! The text is known to be valid JSON: it was read before, or written here. So the end of a value is looked for, and not whether it
//! is one, which takes a fraction of the time; and what is changed in an object is put between pieces of its text.

use std::{borrow::Cow, ops::Range};

/// A member of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Span<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The name as it was written, in its quotation marks.
    pub quoted: &'a str,
    /// The value as it was written.
    pub value: &'a str,
    /// Where name and value are in the text of the object.
    pub place: Range<usize>,
}

/// The members of an object, in their order; `None` for another value.
pub fn members(object: &str) -> Option<impl Iterator<Item = Span<'_>>> {
    let begin = after_blanks(object.as_bytes(), 0);
    (object.as_bytes().get(begin) == Some(&b'{')).then_some(Members { object, at: begin + 1 })
}

/// Where the items of a list are in its text, in their order; `None` for another value.
pub fn items(list: &str) -> Option<impl Iterator<Item = Range<usize>>> {
    let text = list.as_bytes();
    let mut at = after_blanks(text, 0);
    let is_list = text.get(at) == Some(&b'[');
    at += 1;
    is_list.then(|| {
        std::iter::from_fn(move || {
            let begin = after_mark(text, at, b',');
            at = end_of_value(text, begin)?;
            Some(begin..at)
        })
    })
}

struct Members<'a> {
    object: &'a str,
    /// Where the next member begins, or what parts it from the one before.
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = Span<'a>;

    fn next(&mut self) -> Option<Span<'a>> {
        let text = self.object.as_bytes();
        let begin = after_mark(text, self.at, b',');
        let (end, is_escaped) = end_of_string(text, begin)?;
        let value = after_mark(text, end, b':');
        self.at = end_of_value(text, value)?;
        let quoted = self.object.get(begin..end)?;
        let name = if is_escaped {
            Cow::Owned(serde_json::from_str(quoted).ok()?)
        } else {
            Cow::Borrowed(quoted.get(1..quoted.len() - 1)?)
        };
        Some(Span { name, quoted, value: self.object.get(value..self.at)?, place: begin..self.at })
    }
}

/// Where something else begins than the blanks that may be here.
fn after_blanks(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = text.get(at) {
        at += 1;
    }
    at
}

/// The same behind a mark, which may be missing.
fn after_mark(text: &[u8], at: usize, mark: u8) -> usize {
    let at = after_blanks(text, at);
    if text.get(at) == Some(&mark) { after_blanks(text, at + 1) } else { at }
}

/// Where the value ends that begins here; `None` where none does.
fn end_of_value(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match text.get(at)? {
            b'"' => at = end_of_string(text, at)?.0,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth > 0 => at += 1,
            b',' | b':' => return None,
            _ => {
                let is_over = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                return Some(text[at..].iter().position(is_over).map_or(text.len(), |bytes| at + bytes));
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the string ends that begins here, and whether anything in it is escaped.
fn end_of_string(text: &[u8], at: usize) -> Option<(usize, bool)> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let (mut at, mut is_escaped) = (at + 1, false);
    loop {
        at = to_mark(text, at)?;
        if text[at] == b'"' {
            return Some((at + 1, is_escaped));
        }
        is_escaped = true;
        at += 2;
    }
}

/// The first quotation mark or backslash from here.
fn to_mark(text: &[u8], mut at: usize) -> Option<usize> {
    /// So much is looked at here, as most strings are short; a search that looks at more at once takes longer to begin.
    const SHORT: usize = 48;
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // The highest bit of each byte that is zero; and maybe of some behind the first such.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let short = at + SHORT;
    while at < short
        && let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<8>)
    {
        let word = u64::from_le_bytes(*word);
        let marks = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let found = memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
    Some(at + found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\[\\]{}\",:\\\\ \\n]{0,8}".prop_map(Value::from),
            "[a\u{80}-\u{ff}]{0,70}[\\\\\"\u{a2}\u{dc}]{0,3}[a-z]{0,70}".prop_map(Value::from),
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
            let parsed: Option<BTreeMap<String, &RawValue>> = serde_json::from_str(text.get()).ok();
            let parsed = parsed.map(|members| {
                members.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect::<Vec<_>>()
            });
            let sorted = found.map(|mut members| {
                members.sort();
                members
            });
            prop_assert_eq!(sorted, parsed);
        }

        #[test]
        fn items_are_where_a_parser_finds_them(value in value(), is_pretty: bool) {
            let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let found: Option<Vec<&str>> = items(&text).map(|items| items.map(|place| &text[place]).collect());
            let parsed: Option<Vec<&RawValue>> = serde_json::from_str(&text).ok();
            prop_assert_eq!(found, parsed.map(|items| items.into_iter().map(RawValue::get).collect()));
        }

        #[test]
        fn what_is_not_json_does_no_harm(text in "[\\[\\]{}\",:\\\\ a1ä]{0,40}") {
            members(&text).into_iter().flatten().for_each(drop);
            items(&text).into_iter().flatten().for_each(drop);
        }
    }
}
