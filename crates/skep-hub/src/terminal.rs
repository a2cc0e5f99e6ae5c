//! What a person reads on a terminal.
//!
//! Names and descriptions from MCP servers, their messages, the output of failed commands, file names: all of it may
//! come from somebody who means harm. A terminal obeys what it is shown: an escape sequence rewrites earlier lines, sets
//! the title, fills the clipboard; a line break begins a line that looks like one of ours; an invisible character makes
//! two names look the same. So everything that this crate prints goes through this module, which shows such characters
//! instead of sending them: ESC becomes `\u001b`.
//!
//! [`print()`] and `say!` are the only ways to standard output and standard error (the lints in
//! `lib.rs` see to it), and clean whole texts, in which line breaks are legitimate. Who puts untrusted text into a line
//! of a list or a message uses [`line()`] on it, so that it stays within its line.
//!
//! The visible form is the escape of JSON on purpose. Such characters occur in JSON only within strings, where the
//! escape means the character itself; so [`print()`] can clean JSON, too, without changing its meaning.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, IsTerminal, Write},
};

/// Characters of one message on standard error; the rest of a longer one is left out.
const MESSAGE_CHARS_MAX: usize = 64 << 10;

/// Print to standard output, safe to be shown. A reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    Ok(ignore_gone(out.write_all(block(text).as_bytes()).and_then(|()| out.flush()))?)
}

/// Print a message to standard error; see `say!`, which calls it.
pub fn print_message(message: fmt::Arguments<'_>) {
    // There is nobody left who could be told that standard error cannot be written.
    let _ = io::stderr().lock().write_all(message_of(&message.to_string()).as_bytes());
}

/// Print a message to standard error, as `eprintln!` does, safe to be shown. What comes after a line break in it is
/// indented, so that no text within a message passes for another message.
macro_rules! say {
    ($($message:tt)*) => { $crate::terminal::print_message(format_args!($($message)*)) };
}
pub(crate) use say;

fn message_of(message: &str) -> String {
    let mut shown = String::with_capacity(message.len() + 1);
    for (n, line) in shortened(block(message), MESSAGE_CHARS_MAX).trim_end_matches('\n').split('\n').enumerate() {
        if n > 0 {
            shown += if line.starts_with(' ') { "\n" } else { "\n  " };
        }
        shown += line;
    }
    shown.push('\n');
    shown
}

/// A write that failed because the reader has gone is no failure.
pub fn ignore_gone(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Text of several lines, safe to be shown: line breaks and tabs stay, `\r\n` becomes `\n`.
pub fn block(text: &str) -> Cow<'_, str> {
    clean(text, true)
}

/// Text that stays within its line, safe to be shown.
pub fn line(text: &str) -> Cow<'_, str> {
    clean(text, false)
}

/// As [`line()`], and of at most so many characters; what is cut off is marked by `…`.
pub fn short_line(text: &str, chars_max: usize) -> String {
    // Most of a megabyte need not be looked at to show the beginning; a character is shown as one or more.
    let text = text.char_indices().nth(chars_max.saturating_add(1)).map_or(text, |(end, _)| &text[..end]);
    shortened(line(text), chars_max).into_owned()
}

fn shortened(text: Cow<'_, str>, chars_max: usize) -> Cow<'_, str> {
    if text.len() <= chars_max || text.chars().count() <= chars_max {
        return text;
    }
    let mut short: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    short.push('…');
    short.into()
}

fn clean(text: &str, may_break: bool) -> Cow<'_, str> {
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) || may_break && matches!(byte, b'\n' | b'\t');
    let Some(first) = text.bytes().position(|byte| !is_plain(byte)) else { return text.into() };
    let (begin, rest) = text.split_at(first);
    let mut shown = String::with_capacity(text.len() + 16);
    shown += begin;
    let mut characters = rest.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' if may_break => shown.push(character),
            '\r' if may_break && characters.peek() == Some(&'\n') => {}
            // They join letters of several scripts, and emoji; after ASCII they only make a name look like another one.
            '\u{200c}' | '\u{200d}' if shown.chars().next_back().is_some_and(|before| !before.is_ascii()) => {
                shown.push(character);
            }
            _ if deceives(character) => escape(character, &mut shown),
            _ => shown.push(character),
        }
    }
    shown.into()
}

/// Whether a terminal obeys the character, or a person does not see it where it is.
fn deceives(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{00ad}' | '\u{034f}' // a hyphen that is not shown, and a joiner of letters
            | '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' // the direction of text
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // letters that look like a space or like nothing
            | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' // nothing
            | '\u{2028}' | '\u{2029}' // line breaks
            | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}') // tags and further variation selectors, which carry whole texts unseen
}

/// The character as JSON escapes it.
fn escape(character: char, shown: &mut String) {
    match character {
        '\n' => *shown += "\\n",
        '\r' => *shown += "\\r",
        '\t' => *shown += "\\t",
        _ => {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
}

/// Passes on what a program prints: safe to be shown if it goes to a terminal, otherwise byte by byte as it is.
pub struct Screen<W> {
    to: W,
    is_raw: bool,
    /// Bytes at the end of the last write that mean something only together with the next ones.
    held: Vec<u8>,
}

impl<W: Write + IsTerminal> Screen<W> {
    /// In front of this stream. `is_raw`: pass everything on as it is, also to a terminal.
    pub fn new(to: W, is_raw: bool) -> Screen<W> {
        let is_raw = is_raw || !to.is_terminal();
        Screen { to, is_raw, held: Vec::new() }
    }
}

impl<W: Write> Screen<W> {
    /// Pass on what was held back, too: nothing follows.
    pub fn finish(mut self) -> io::Result<()> {
        let held: String = std::mem::take(&mut self.held).into_iter().map(byte).collect();
        self.to.write_all(held.as_bytes())?;
        self.to.flush()
    }
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_raw {
            return self.to.write(bytes);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let (mut rest, mut shown) = (all.as_slice(), String::new());
        while !rest.is_empty() {
            let (text, invalid) = match std::str::from_utf8(rest) {
                Ok(text) => (text, 0),
                // Either bytes that no character has, or the beginning of one.
                Err(error) => {
                    let text = std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default();
                    (text, error.error_len().unwrap_or(0))
                }
            };
            let (whole, after) = rest.split_at(text.len());
            let (bad, after) = after.split_at(invalid);
            // `\r` is half a line break, perhaps.
            let half = usize::from(after.is_empty() && bad.is_empty() && whole.ends_with(b"\r"));
            shown += &block(&text[..text.len() - half]);
            shown.extend(bad.iter().copied().map(byte));
            rest = after;
            if invalid == 0 {
                self.held = [&whole[whole.len() - half..], after].concat();
                break;
            }
        }
        self.to.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A byte that is not part of any text.
fn byte(byte: u8) -> String {
    if byte == b'\r' { "\\r".to_owned() } else { format!("\\x{byte:02x}") }
}

/// Whether lines on this stream may be drawn anew, and in colour: it is a terminal that can, and nobody objects.
pub fn can_draw(stream: &impl IsTerminal) -> bool {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_capable = variable("TERM").is_some_and(|term| term != "dumb");
    stream.is_terminal() && is_capable && variable("NO_COLOR").is_none()
}

/// Standard error for the log: an event is one line, whatever its fields hold.
pub struct LogWriter;

impl Write for LogWriter {
    /// One event, as the log's formatters write them.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut shown = line(text.strip_suffix('\n').unwrap_or(&text)).into_owned();
        shown.push('\n');
        io::stderr().lock().write_all(shown.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_instead_of_sent() {
        for (text, shown) in [
            ("a\x1b[2J\x1b]0;title\x07b", r"a\u001b[2J\u001b]0;title\u0007b"),
            ("\u{9b}31mred\u{7f}\u{8}", r"\u009b31mred\u007f\u0008"),
            ("over\rwritten", r"over\rwritten"),
            ("user\u{202e}gpj.exe\u{2066}", r"user\u202egpj.exe\u2066"),
            ("time\u{200b}\u{200d}", r"time\u200b\u200d"),
            ("a\u{e0041}b", r"a\udb40\udc41b"),
        ] {
            assert_eq!(block(text), shown);
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn ordinary_text_of_any_script_stays() {
        for text in ["tools for “Zürich”, 日本, é", "👩\u{200d}💻", "می\u{200c}خواهم", "✔\u{fe0f} done"]
        {
            assert_eq!(block(text), text);
            assert!(matches!(line("plain"), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn line_breaks_stay_in_a_block_and_are_shown_in_a_line() {
        let text = "one\r\n\ttwo\nthree\u{2028}\u{85}";
        assert_eq!(block(text), "one\n\ttwo\nthree\\u2028\\u0085");
        assert_eq!(line(text), r"one\r\n\ttwo\nthree\u2028\u0085");
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        assert_eq!(short_line("äöü", 3), "äöü");
        assert_eq!(short_line("äöüx", 3), "äö…");
        assert_eq!(short_line(&"\x1b".repeat(1 << 20), 8), "\\u001b\\…");
    }

    #[test]
    fn a_message_within_a_message_is_indented() {
        assert_eq!(message_of("no: a\nskep: all is well\n  as it was\n"), "no: a\n  skep: all is well\n  as it was\n");
        assert!(message_of(&"x".repeat(1 << 20)).len() < 2 * MESSAGE_CHARS_MAX);
    }

    #[test]
    fn what_a_program_prints_is_the_same_however_it_is_cut() {
        let bytes = "a\x1b[1m\r\né\u{9b}\r".bytes().chain([0xff, b'z', 0xc3]).collect::<Vec<u8>>();
        for cut in 0..=bytes.len() {
            let mut screen = Screen { to: Vec::new(), is_raw: false, held: Vec::new() };
            screen.write_all(&bytes[..cut]).unwrap();
            screen.write_all(&bytes[cut..]).unwrap();
            let mut shown = std::mem::take(&mut screen.to);
            shown.extend(screen.held.iter().copied().map(byte).collect::<String>().into_bytes());
            assert_eq!(String::from_utf8(shown).unwrap(), "a\\u001b[1m\né\\u009b\\r\\xffz\\xc3", "cut at {cut}");
        }
        let mut raw = Screen { to: Vec::new(), is_raw: true, held: Vec::new() };
        raw.write_all(&bytes).unwrap();
        assert_eq!(raw.to, bytes);
    }

    proptest! {
        #[test]
        fn json_means_the_same_after_it_was_made_safe(text in any::<String>(), hidden in "[\u{7f}-\u{9f}\u{202e}\u{e0041}\\\\\"]*") {
            let value = serde_json::json!({ &text: [&hidden, &text] });
            for json in [value.to_string(), format!("{value:#}")] {
                let shown = block(&json);
                prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&shown).unwrap(), &value);
                prop_assert!(!shown.chars().any(|c| c != '\n' && c.is_control()));
            }
        }
    }
}
