//! `cargo xtask tidy`: rules about the tree that neither the compiler nor clippy knows.
//!
//! - [`crates`]: which crate may depend on which.
//! - [`modules`]: the top-level modules of a crate do not depend on each other in a circle.
//! - [`length`]: files and functions have a size that one can read.
//! - [`snapshots`]: no snapshot is kept that no test compares with.
//!
//! It reads the sources as text and compiles nothing, so it takes a moment. Each fault names the file, the line, and what to do.

mod crates;
mod length;
mod modules;
mod snapshots;
mod source;

use std::{collections::BTreeMap, fmt, fs, path::Path};

/// Directories that hold no sources of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];
/// How the names of files end that the rules look at.
const READ: [&str; 3] = [".rs", ".toml", ".snap"];

/// The files of a repository that the rules look at: their contents by their paths from its root.
#[derive(Debug, Default)]
struct Tree(BTreeMap<String, String>);

/// What breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    /// Counted from 1.
    line: usize,
    /// What is wrong, and what to do.
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

impl Fault {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Fault {
        Fault { path: path.to_owned(), line, message: message.into() }
    }
}

/// Check everything; the error is the list of faults.
pub(crate) fn check() -> Result<(), String> {
    // Wherever in the repository cargo was called.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut tree = Tree::default();
    tree.read(root, "").map_err(|error| format!("the tree cannot be read: {error}"))?;
    let faults = faults(&tree);
    if faults.is_empty() {
        return Ok(());
    }
    let lines: String = faults.iter().map(|fault| format!("\n{fault}")).collect();
    Err(format!("{} faults:{lines}", faults.len()))
}

fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = crates::faults(tree);
    faults.extend(modules::faults(tree));
    faults.extend(length::faults(tree, &length::FILES, &length::FUNCTIONS));
    faults.extend(snapshots::faults(tree));
    faults
}

impl Tree {
    /// Read what is below a directory, whose path from the root is `at`, with a slash at its end unless it is empty.
    fn read(&mut self, directory: &Path, at: &str) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let (kind, path) = (entry.file_type()?, format!("{at}{name}"));
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                self.read(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() && READ.iter().any(|end| name.ends_with(end)) {
                let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
                self.0.insert(path, text);
            }
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// The files below a directory whose names end like this.
    fn below<'a>(&'a self, directory: &'a str, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.0.iter().filter(move |(path, _)| path.starts_with(directory) && path.ends_with(end));
        files.map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The names of the crates in `crates/`.
    fn crates(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|path| path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"))
    }
}

#[cfg(test)]
impl Tree {
    /// A tree of these files.
    fn of(files: &[(&str, &str)]) -> Tree {
        Tree(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }
}
