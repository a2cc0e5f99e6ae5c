//! The words of a sentence, with what quotes and backticks protect.

use std::ops::Range;

/// A word, or what stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) kind: Kind,
    /// What it says, without quotes and without the punctuation around it.
    pub(super) text: String,
    /// Where it stands in the sentence, with its quotes.
    pub(super) place: Range<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word as any other.
    Plain,
    /// Text between quotes or backticks.
    Quoted,
    /// Text between three backticks, and the language that follows the first.
    Block(String),
    /// `,`
    Comma,
    /// `;`, the end of a line or of a sentence.
    Stop,
}

impl Word {
    /// Whether it is this word, in capitals or not.
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == Kind::Plain && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is one of these words.
    pub(super) fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    /// Whether it stands between quotes of any kind.
    pub(super) fn is_quoted(&self) -> bool {
        matches!(self.kind, Kind::Quoted | Kind::Block(_))
    }
}

/// Whether the words begin with this phrase.
pub(super) fn begin_with(words: &[Word], phrase: &[&str]) -> bool {
    words.len() >= phrase.len() && words.iter().zip(phrase).all(|(word, wanted)| word.is(wanted))
}

/// Cut a sentence into words.
pub(super) fn split(sentence: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut at = 0;
    while let Some(first) = sentence[at..].chars().next() {
        if first.is_whitespace() {
            if first == '\n' && words.last().is_some_and(|word| word.kind != Kind::Stop) {
                words.push(Word { kind: Kind::Stop, text: String::new(), place: at..at });
            }
            at += first.len_utf8();
        } else if let Some(word) = block(sentence, at).or_else(|| quoted(sentence, at, first)) {
            at = word.place.end;
            words.push(word);
        } else {
            let rest = &sentence[at..];
            let end = at + rest.find(char::is_whitespace).unwrap_or(rest.len());
            plain(&sentence[at..end], at, &mut words);
            at = end;
        }
    }
    words
}

/// ```` ```python … ``` ````, or up to the end.
fn block(sentence: &str, at: usize) -> Option<Word> {
    let inside = sentence[at..].strip_prefix("```")?;
    let (inside, end) = match inside.find("```") {
        Some(length) => (&inside[..length], at + length + 6),
        None => (inside, sentence.len()),
    };
    let (language, text) = match inside.split_once('\n') {
        Some((language, text)) if language.trim().chars().all(char::is_alphanumeric) => (language.trim(), text),
        _ => ("", inside),
    };
    Some(Word { kind: Kind::Block(language.to_owned()), text: text.to_owned(), place: at..end })
}

fn quoted(sentence: &str, at: usize, open: char) -> Option<Word> {
    let close = match open {
        '"' | '`' | '\'' => open,
        '“' => '”',
        '‘' => '’',
        '«' => '»',
        _ => return None,
    };
    let start = at + open.len_utf8();
    let inside = &sentence[start..];
    // An apostrophe within a word ends nothing.
    let ends = |(index, _): &(usize, &str)| {
        !matches!(close, '\'' | '’') || !inside[index + close.len_utf8()..].starts_with(|c: char| c.is_alphanumeric())
    };
    let (length, _) = inside.match_indices(close).find(ends)?;
    let end = start + length + close.len_utf8();
    Some(Word { kind: Kind::Quoted, text: inside[..length].to_owned(), place: at..end })
}

/// A word and the punctuation that follows it.
fn plain(word: &str, at: usize, words: &mut Vec<Word>) {
    let is_path = word.trim_matches('.').is_empty(); // `.` and `..` are directories
    let text = if is_path { word } else { word.trim_end_matches([',', ';', '.', '!', '?', ':']) };
    if !text.is_empty() {
        words.push(Word { kind: Kind::Plain, text: text.to_owned(), place: at..at + text.len() });
    }
    let after = &word[text.len()..];
    let kind = match after {
        after if after.contains([';', '.', '!', '?']) => Kind::Stop,
        after if after.contains(',') => Kind::Comma,
        _ => return,
    };
    words.push(Word { kind, text: after.to_owned(), place: at + text.len()..at + word.len() });
}
