//! What a file of a workspace is called: a relative path that every database, file system and terminal can carry.
//!
//! Files of a workspace are rows, and may become files of a real directory. So a path that a file system would not keep
//! as it is, or that leads elsewhere, is refused here, before anything else looks at it. Two names that look alike on
//! the screen, or that are one name for a file system, are one here, too: text is kept in Unicode's NFC, and
//! [`FilePath::twin`] says which paths cannot exist beside each other.

use std::{fmt, sync::Arc};

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 1024;
/// Bytes of a name in a path: as much as Linux, macOS and Windows allow.
pub const PART_BYTES_MAX: usize = 255;

/// The path of a file in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Arc<str>);

/// Why a text is no path of a file in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// No text.
    #[error("the path is empty; name a file, such as src/main.rs")]
    Empty,
    /// It begins at the root of a file system, or at a drive.
    #[error("{0:?} is absolute; give the path relative to the workspace, without the leading slash or drive")]
    Absolute(String),
    /// It leads upwards.
    #[error("{0:?} has `..` in it, which leads out of the workspace; name the file from the workspace's root")]
    Upwards(String),
    /// It has a `.` for a name.
    #[error("{0:?} has `.` for a name in it; leave it out")]
    Here(String),
    /// Two slashes beside each other, or one at the end.
    #[error("{0:?} has an empty name in it; write one slash between two names, and none at the end")]
    EmptyName(String),
    /// A backslash, which is a separator for some systems and part of a name for others.
    #[error("{0:?} has a backslash in it; separate names by `/`")]
    Backslash(String),
    /// A control character, NUL among them.
    #[error("{0:?} has a control character in it; leave it out")]
    Control(String),
    /// A character that nobody sees and that changes what is seen.
    #[error("{0:?} has an invisible character in it (U+{1:04X}); leave it out")]
    Invisible(String, u32),
    /// A name that Windows would keep without its last character.
    #[error("{0:?} has a name that ends in a dot or a space, which some file systems drop; leave that out")]
    DotOrSpaceAtEnd(String),
    /// A name that no file system takes.
    #[error("{0:?} has a name of more than {PART_BYTES_MAX} bytes; make it shorter")]
    LongName(String),
    /// Too long as a whole.
    #[error("the path has {0} bytes, and may have {PATH_BYTES_MAX}; make it shorter")]
    TooLong(usize),
}

impl FilePath {
    /// The path that a caller has given, in NFC.
    pub fn new(text: &str) -> Result<FilePath, InvalidPath> {
        let path = normalised(text)?;
        if path.contains('\\') {
            return Err(InvalidPath::Backslash(path));
        }
        check_names(&path)?;
        let names = || path.split('/');
        if names().any(|name| name.ends_with(['.', ' '])) {
            return Err(InvalidPath::DotOrSpaceAtEnd(path));
        }
        if names().any(|name| name.len() > PART_BYTES_MAX) {
            return Err(InvalidPath::LongName(path));
        }
        Ok(FilePath(path.into()))
    }

    /// What the database has, which was checked when it was written.
    pub(crate) fn from_database(path: String) -> FilePath {
        FilePath(path.into())
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for all paths that some file system takes for one: see [`fold`].
    pub fn twin(&self) -> String {
        fold(&self.0)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text in NFC, unless it is empty, too long, or has characters that no path may have.
pub(crate) fn normalised(text: &str) -> Result<String, InvalidPath> {
    // Normalised text may be three times as long, and this is about what callers may send.
    if text.len() > PATH_BYTES_MAX {
        return Err(InvalidPath::TooLong(text.len()));
    }
    let text = if is_nfc(text) { text.to_owned() } else { text.nfc().collect() };
    if text.is_empty() {
        return Err(InvalidPath::Empty);
    }
    if text.len() > PATH_BYTES_MAX {
        return Err(InvalidPath::TooLong(text.len()));
    }
    if text.contains(char::is_control) {
        return Err(InvalidPath::Control(text));
    }
    match text.chars().find(|character| is_invisible(*character)) {
        Some(character) => Err(InvalidPath::Invisible(text, character.into())),
        None => Ok(text),
    }
}

/// Whether the names between the slashes are names, and lead nowhere else.
pub(crate) fn check_names(path: &str) -> Result<(), InvalidPath> {
    let is_drive = matches!(path.as_bytes(), [drive, b':', ..] if drive.is_ascii_alphabetic());
    if path.starts_with('/') || is_drive {
        return Err(InvalidPath::Absolute(path.to_owned()));
    }
    for name in path.split('/') {
        match name {
            "" => return Err(InvalidPath::EmptyName(path.to_owned())),
            "." => return Err(InvalidPath::Here(path.to_owned())),
            ".." => return Err(InvalidPath::Upwards(path.to_owned())),
            _ => {}
        }
    }
    Ok(())
}

/// A text without what case-insensitive file systems ignore: case, in all its forms (`ß` is `ss`, the Kelvin sign is
/// `k`, a final sigma is a sigma), the ways to compose a character (NFC and NFD), and joiners that are not seen, which
/// HFS+ skips. So it tells that `README` and `Readme` cannot exist side by side on macOS and Windows. Letters of other
/// scripts that look alike (`а` and `a`) are different for every file system, and here.
pub(crate) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let upper = text.nfd().flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).filter(|character| !matches!(character, '\u{200c}' | '\u{200d}')).nfc().collect()
}

/// Characters without a picture of their own that hide others or turn them around: soft hyphens, zero-width spaces, and
/// the marks of writing directions. Joiners are not among them, since some scripts and emoji need them.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> InvalidPath {
        FilePath::new(text).unwrap_err()
    }

    #[test]
    fn a_path_is_relative_and_leads_nowhere_else() {
        for path in [
            "a",
            "src/main.rs",
            ".gitignore",
            "a b/c",
            "...x",
            "pages/[id].tsx",
            "日本語/ファイル",
            "ab:c",
            "👩\u{200d}💻",
        ] {
            assert_eq!(FilePath::new(path).unwrap().as_str(), path);
        }
        let text = |path: &str| path.to_owned();
        assert_eq!(refused(""), InvalidPath::Empty);
        assert_eq!(refused("/etc/passwd"), InvalidPath::Absolute(text("/etc/passwd")));
        assert_eq!(refused("C:/x"), InvalidPath::Absolute(text("C:/x")));
        assert_eq!(refused("a/../b"), InvalidPath::Upwards(text("a/../b")));
        assert_eq!(refused(".."), InvalidPath::Upwards(text("..")));
        assert_eq!(refused("./a"), InvalidPath::Here(text("./a")));
        assert_eq!(refused("a//b"), InvalidPath::EmptyName(text("a//b")));
        assert_eq!(refused("a/"), InvalidPath::EmptyName(text("a/")));
        assert_eq!(refused("a\\..\\b"), InvalidPath::Backslash(text("a\\..\\b")));
        assert_eq!(refused("a\0b"), InvalidPath::Control(text("a\0b")));
        assert_eq!(refused("a\u{85}"), InvalidPath::Control(text("a\u{85}")));
        assert_eq!(refused("a\u{202e}txt.exe"), InvalidPath::Invisible(text("a\u{202e}txt.exe"), 0x202e));
        assert_eq!(refused("a./b"), InvalidPath::DotOrSpaceAtEnd(text("a./b")));
        assert_eq!(refused("a "), InvalidPath::DotOrSpaceAtEnd(text("a ")));
    }

    #[test]
    fn a_path_has_a_largest_size() {
        let names = |count: usize, bytes: usize| vec!["x".repeat(bytes); count].join("/");
        assert!(FilePath::new(&names(1, PART_BYTES_MAX)).is_ok());
        assert!(matches!(refused(&names(1, PART_BYTES_MAX + 1)), InvalidPath::LongName(_)));
        assert!(FilePath::new(&names(5, 204)).is_ok(), "{PATH_BYTES_MAX} bytes");
        assert_eq!(refused(&names(5, 205)), InvalidPath::TooLong(1029));
        // U+FB2C has two bytes more in NFC than as it was given.
        assert!(matches!(refused(&"\u{fb2c}".repeat(PATH_BYTES_MAX / 3)), InvalidPath::TooLong(_)));
    }

    #[test]
    fn one_name_in_two_forms_is_one_path() {
        assert_eq!(FilePath::new("cafe\u{301}").unwrap(), FilePath::new("caf\u{e9}").unwrap());
        // What a form of Unicode turns into is checked, not what was given: U+2024 stays what it is in NFC.
        assert!(FilePath::new("\u{2024}\u{2024}").is_ok());
    }

    #[test]
    fn twins_are_what_some_file_system_takes_for_one_file() {
        let twins = |a: &str, b: &str| FilePath::new(a).unwrap().twin() == FilePath::new(b).unwrap().twin();
        for (a, b) in [
            ("README.md", "readme.MD"),
            ("Straße", "STRASSE"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("\u{212a}", "k"),
            ("ÉCOLE", "e\u{301}cole"),
            ("a\u{200d}b", "ab"),
            ("ſ", "s"),
        ] {
            assert!(twins(a, b), "{a} {b}");
        }
        for (a, b) in [("a", "b"), ("е", "e"), ("a/b", "a"), ("o", "ö"), ("ａ", "a")] {
            assert!(!twins(a, b), "{a} {b}");
        }
    }
}
