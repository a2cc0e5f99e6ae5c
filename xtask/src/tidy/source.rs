//! A Rust file as the rules read it: its code, without what only looks like code.

use std::ops::Range;

/// The text with comments, texts and characters made blank, so that every brace, keyword and path that is left is code. Lines
/// and columns stay as they are.
pub(super) fn code(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        match blank_end(text, at) {
            Some(end) => {
                blank(&mut code, at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(code).expect("whole characters were made blank")
}

/// The same code without what is compiled for tests only. It must be without comments and texts already.
pub(super) fn without_tests(code: &str) -> String {
    const TEST: &str = "#[cfg(test)]";
    let mut rest = code.as_bytes().to_vec();
    for (at, _) in code.match_indices(TEST) {
        let end = item_end(code, at + TEST.len());
        blank(&mut rest, at..end);
    }
    String::from_utf8(rest).expect("whole characters were made blank")
}

/// The line of a byte, counted from 1.
pub(super) fn line(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The identifier that begins here, if one does.
pub(super) fn identifier(code: &str, at: usize) -> &str {
    let end = code[at..].find(|c: char| !is_in_name(c)).map_or(code.len(), |end| at + end);
    &code[at..end]
}

/// Where this word stands, as a whole word.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !code[..*at].ends_with(is_in_name) && !code[at + word.len()..].starts_with(is_in_name))
}

/// The first byte from here on that is no white space.
pub(super) fn skip_space(code: &str, at: usize) -> usize {
    code[at..].find(|c: char| !c.is_whitespace()).map_or(code.len(), |space| at + space)
}

/// After the bracket that closes the one here.
pub(super) fn closed(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

fn is_in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// After the item that begins here, with the attributes before it.
fn item_end(code: &str, at: usize) -> usize {
    let mut at = skip_space(code, at);
    while code[at..].starts_with("#[") {
        at = skip_space(code, closed(code, at + 1));
    }
    while let Some(found) = code[at..].find(['(', '[', '{', ';']) {
        at += found;
        match code.as_bytes()[at] {
            b';' => return at + 1,
            b'{' => return closed(code, at),
            _ => at = closed(code, at),
        }
    }
    code.len()
}

fn blank(code: &mut [u8], range: Range<usize>) {
    code[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// After the comment, text or character that begins here, if one does.
fn blank_end(text: &str, at: usize) -> Option<usize> {
    match &text.as_bytes()[at..] {
        [b'/', b'/', ..] => Some(text[at..].find('\n').map_or(text.len(), |end| at + end)),
        [b'/', b'*', ..] => Some(comment_end(text, at)),
        [b'"', ..] => Some(text_end(text, at + 1)),
        [b'\'', ..] => character_end(text, at),
        [b'r' | b'b' | b'c', ..] if !text[..at].ends_with(is_in_name) => prefixed_end(text, at),
        _ => None,
    }
}

fn comment_end(text: &str, at: usize) -> usize {
    let (mut depth, mut at) = (0, at);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

fn text_end(text: &str, at: usize) -> usize {
    let mut at = at;
    while at < text.len() {
        match text.as_bytes()[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// A character, or `None` if this is a lifetime.
fn character_end(text: &str, at: usize) -> Option<usize> {
    let mut inside = text[at + 1..].char_indices();
    match inside.next()?.1 {
        // What is escaped may be a quote, which does not end it.
        '\\' => text[at + 3..].find('\'').map(|end| at + 3 + end + 1),
        _ => inside.next().filter(|(_, next)| *next == '\'').map(|(end, _)| at + 1 + end + 1),
    }
}

/// A text or character with letters before it: `r"…"`, `br#"…"#`, `c"…"`, `b'…'`.
fn prefixed_end(text: &str, at: usize) -> Option<usize> {
    let letters = text[at..].bytes().take(2).take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let is_raw = text[at..at + letters].contains('r');
    let after = at + letters;
    let hashes = text[after..].bytes().take_while(|byte| *byte == b'#').count();
    match text[after + hashes..].bytes().next()? {
        b'"' if is_raw => {
            let (begin, end) = (after + hashes + 1, format!("\"{}", "#".repeat(hashes)));
            Some(text[begin..].find(&end).map_or(text.len(), |found| begin + found + end.len()))
        }
        b'"' if hashes == 0 => Some(text_end(text, after + 1)),
        b'\'' if hashes == 0 => character_end(text, after),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_texts_and_characters_are_no_code() {
        let text = r##"a /* { /* nested */ } */ b // }
"}\"}" c r#"}"}"# d b"}" '}' '\'' '\u{7d}' 'é' b'}' r#"#;
fn f<'a>(x: &'a str) {} r#type "##;
        let code = code(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
        let words: Vec<&str> = code.split_whitespace().collect();
        let expected = ["a", "b", "c", "d"];
        assert_eq!(words[..4], expected, "{code}");
        assert!(!code.lines().next().unwrap().contains('}'), "{code}");
        let other = "fn f<'a>(x: &'a str) -> char { '}' } // }";
        assert_eq!(super::code(other), "fn f<'a>(x: &'a str) -> char {     }     ");
        assert_eq!(super::code("let r#type = br#\"}\"#;"), "let r#type =        ;");
    }

    #[test]
    fn what_is_for_tests_only_is_left_out() {
        let code = "use a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[expect(x)]\nmod more { fn f() { } }\nfn g() {}\n";
        let rest = without_tests(code);
        assert_eq!(rest.split_whitespace().collect::<Vec<_>>(), ["use", "a;", "fn", "g()", "{}"]);
        assert_eq!(rest.len(), code.len());
        assert!(without_tests("#[cfg(test)]\nuse self::{a, b};\nfn f([u8; 2]) {}").contains("fn f"));
    }

    #[test]
    fn only_whole_words_are_found() {
        let code = "fn fn_a(afn: fn()) {}";
        assert_eq!(words(code, "fn").collect::<Vec<_>>(), [0, 13]);
        assert_eq!(identifier(code, 3), "fn_a");
        assert_eq!(&code[7..closed(code, 7)], "(afn: fn())");
    }
}
