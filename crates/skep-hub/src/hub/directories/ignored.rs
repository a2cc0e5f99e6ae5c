//! Which files of a directory are nobody's business: what `.gitignore` and `.skepignore` say, `.git`, and files that
//! are being written beside their place.
//!
//! What is ignored is not looked at in the directory, and not written there either. So nobody who may only write files of
//! the workspace can put a hook into `.git`.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use skep_tools::workspace::Dir;

/// The files that say what is ignored. Those of a later one count more.
const RULES: [&str; 2] = [".gitignore", ".skepignore"];
/// Bytes of such a file; a larger one has no effect.
const RULES_BYTES_MAX: u64 = 1 << 20;
/// Git's own directory or, in a worktree, file.
const GIT: &str = ".git";
/// How files begin that are being written beside their place (`skep-tools`, `Dir::write`), and hexadecimal digits after it.
const BESIDE: &str = ".skep-";
const BESIDE_DIGITS: usize = 16;

/// What is ignored.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// The rules of each directory that has some.
    by_directory: BTreeMap<PathBuf, Gitignore>,
}

impl Ignored {
    /// Read the rules that a directory has now.
    pub(super) fn read(&mut self, dir: &Dir, directory: &Path) {
        let mut builder = GitignoreBuilder::new("");
        for name in RULES {
            let path = directory.join(name);
            let Ok(bytes) = dir.read(&path, RULES_BYTES_MAX) else { continue };
            for line in String::from_utf8_lossy(&bytes).lines() {
                if let Err(error) = builder.add_line(None, line) {
                    tracing::warn!(path = %path.display(), %error, "a line has no effect");
                }
            }
        }
        match builder.build() {
            Ok(rules) if !rules.is_empty() => drop(self.by_directory.insert(directory.to_owned(), rules)),
            Ok(_) => drop(self.by_directory.remove(directory)),
            Err(error) => {
                tracing::warn!(directory = %directory.display(), %error, "what is ignored there cannot be read");
                self.by_directory.remove(directory);
            }
        }
    }

    /// Whether a file is ignored, or a directory on its way.
    pub(super) fn covers(&self, path: &Path) -> bool {
        let mut above: Vec<&Path> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
        above.reverse();
        let last = above.len().saturating_sub(1);
        above.iter().enumerate().any(|(n, part)| self.covers_entry(part, n < last))
    }

    /// The same for an entry of a directory that is not ignored.
    pub(super) fn covers_entry(&self, path: &Path, is_directory: bool) -> bool {
        let Some(name) = path.file_name() else { return false };
        if name == GIT || (!is_directory && is_beside(name)) {
            return true;
        }
        for directory in path.ancestors().skip(1) {
            let Some(rules) = self.by_directory.get(directory) else { continue };
            let Ok(inside) = path.strip_prefix(directory) else { continue };
            match rules.matched(inside, is_directory) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        false
    }
}

/// Whether a file says what is ignored.
pub(super) fn is_rules(path: &Path) -> bool {
    path.file_name().is_some_and(|name| RULES.iter().any(|rules| name == *rules))
}

/// Whether a file is being written, or was when its writer was killed.
pub(super) fn is_beside(name: &OsStr) -> bool {
    let digits = name.to_str().and_then(|name| name.strip_prefix(BESIDE));
    digits.is_some_and(|digits| digits.len() == BESIDE_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_rules_of_all_directories_on_the_way_say_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open(directory.path()).unwrap().without_links();
        fs::create_dir_all(directory.path().join("src/gen")).unwrap();
        fs::write(directory.path().join(".gitignore"), "/target/\n*.log\n!keep.log\nbuild/\n").unwrap();
        fs::write(directory.path().join(".skepignore"), "data.bin\n!all.log\n").unwrap();
        fs::write(directory.path().join("src/.gitignore"), "!a.log\n/gen/*\n!/gen/kept\n").unwrap();
        let mut ignored = Ignored::default();
        for place in ["", "src", "src/gen"] {
            ignored.read(&dir, Path::new(place));
        }
        for (path, expected) in [
            ("target/debug/x", true),
            ("src/target/x", false),
            ("x.log", true),
            ("keep.log", false),
            ("all.log", false),
            ("src/a.log", false),
            ("src/b.log", true),
            ("src/gen/a", true),
            ("src/gen/kept", false),
            ("a/build/keep.log", true),
            ("build", false),
            ("data.bin", true),
            (".gitignore", false),
            (".git/config", true),
            ("a/.git", true),
            (".github/x", false),
            (".skep-0123456789abcdef", true),
            ("a/.skep-0123456789abcdef", true),
            (".skep-notes", false),
        ] {
            assert_eq!(ignored.covers(Path::new(path)), expected, "{path}");
        }
        fs::remove_file(directory.path().join(".gitignore")).unwrap();
        ignored.read(&dir, Path::new(""));
        assert!(!ignored.covers(Path::new("x.log")) && ignored.covers(Path::new("data.bin")));
    }
}
