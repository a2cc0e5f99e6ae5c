//! JSON as people write it: with comments (`// …`, `/* … */`) and a comma after the last element, as VS Code and others take
//! it. What is not YAML in it is made so; each character stays in its line and, but for some pairs of escapes, in its column.

use std::borrow::Cow;

/// The same in YAML.
pub(super) fn as_yaml(text: &str) -> Cow<'_, str> {
    match without_comments(text) {
        Cow::Borrowed(text) => with_joined_surrogates(text),
        Cow::Owned(text) => Cow::Owned(with_joined_surrogates(&text).into_owned()),
    }
}

/// Comments as spaces, and each tab as one: YAML does not indent by tabs. A comment that does not end takes all that follows
/// with it, which is a fault.
fn without_comments(text: &str) -> Cow<'_, str> {
    if !text.contains(['/', '\t']) {
        return Cow::Borrowed(text);
    }
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_bytes(rest),
            '/' => comment_bytes(rest),
            _ => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        match c {
            '/' if length > 1 => plain.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            '\t' => plain.push(' '),
            _ => plain.push_str(piece),
        }
        rest = after;
    }
    Cow::Owned(plain)
}

/// Bytes of the string that the text begins with, with its quotes; to the end of the text if it does not end.
fn string_bytes(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.bytes().enumerate().skip(1).find(|(_, byte)| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |(index, _)| index + 1)
}

/// Bytes of the comment that the text begins with; 1 if it does not begin with one.
fn comment_bytes(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    match text.strip_prefix("/*") {
        Some(inside) => inside.find("*/").map_or(text.len(), |end| end + 4),
        None => 1,
    }
}

/// JSON writes a character beyond the first 65,536 as two escapes (`\ud83d\ude00`), YAML as one (`\U0001f600`).
fn with_joined_surrogates(text: &str) -> Cow<'_, str> {
    let (mut joined, mut rest) = (String::new(), text);
    while let Some(escape) = rest.find('\\') {
        let pair = rest.get(escape..escape + 12).and_then(surrogates);
        let end = escape + if pair.is_some() { 12 } else { 2 };
        let Some(after) = rest.get(end..) else { break };
        match pair {
            Some(c) => joined.push_str(&format!("{}\\U{:08x}", &rest[..escape], u32::from(c))),
            None => joined.push_str(&rest[..end]),
        }
        rest = after;
    }
    if joined.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(joined + rest) }
}

fn surrogates(pair: &str) -> Option<char> {
    let unit = |escape: &str| u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok();
    let (high, low) = (unit(pair.get(..6)?)?, unit(pair.get(6..)?)?);
    char::decode_utf16([high, low]).next()?.ok().filter(|c| u32::from(*c) > 0xffff)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::document::{Document, Format};

    fn parse(text: &str) -> Result<Value, Vec<String>> {
        match Document::parse("c.json", Format::Json, text.as_bytes()) {
            Ok(document) => Ok(document.value),
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn comments_and_commas_after_the_last_element_are_taken() {
        let text = "// servers\n{\n\t\"a\": [1, 2,], // two\n\t/* \"b\": 3,\n\t*/ \"c\": \"//x/*y*/\",\n\t\"d\\\"//\": \"http://h/\",\n}\n";
        assert_eq!(parse(text), Ok(json!({ "a": [1, 2], "c": "//x/*y*/", "d\"//": "http://h/" })));
    }

    #[test]
    fn a_fault_after_a_comment_is_told_at_its_place() {
        let document =
            Document::parse("c.json", Format::Json, b"{ /* one */ \"a\": 1,\n  // two\n\t\"b\": 2 }").unwrap();
        assert!(document.problem("/a", "x").to_string().starts_with("c.json:1:13: a: "));
        assert!(document.problem("/b", "x").to_string().starts_with("c.json:3:2: b: "));
    }

    #[test]
    fn a_comment_that_does_not_end_is_a_fault() {
        assert!(parse("{ \"a\": 1 /* }").is_err());
        assert!(parse("{ \"a\": \"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_serde_writes_is_read(members in proptest::collection::btree_map(".{0,6}", ".{0,9}", 0..5)) {
            let text = serde_json::to_string_pretty(&members).unwrap();
            proptest::prop_assert_eq!(parse(&text), Ok(json!(members)));
        }
    }
}
