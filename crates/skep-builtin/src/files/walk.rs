//! The files below a directory, as the user thinks of them: without what .gitignore excludes and what is hidden.

use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use ignore::WalkBuilder;
use skep_tools::{
    error::ToolError,
    workspace::{Context, Dir, OUTPUTS, refused},
};

/// Entries that are looked at; a larger directory is listed in parts.
const ENTRIES_MAX: usize = 1_000_000;

/// A file, or a directory where those were asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Path as tools name it.
    pub(crate) path: String,
    /// Bytes, for a file.
    pub(crate) size: u64,
    pub(super) is_dir: bool,
    pub(super) modified: Option<jiff::Timestamp>,
}

/// What to list.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// Where to begin, as tools name it.
    pub(super) path: String,
    pub(super) glob: Option<String>,
    /// Go into directories; otherwise list them.
    pub(super) recursive: bool,
    /// Include what .gitignore excludes and what begins with a dot.
    pub(super) all: bool,
}

/// What a walk found: all of it, unless the walk was stopped by a limit.
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) complete: bool,
}

impl Walk {
    /// All entries, by path. Stops at the deadline of the call.
    pub(super) fn run(&self, context: &Context) -> Result<Found, ToolError> {
        let glob = self.glob.as_deref().map(|pattern| matcher(pattern, "glob")).transpose()?;
        let (dir, inside) = context.locate(&self.path);
        let start = dir.resolve(inside).map_err(|error| refused(&self.path, &error))?;
        let in_outputs = std::ptr::eq(dir, context.outputs.root());
        let prefix = if in_outputs { Path::new(OUTPUTS) } else { Path::new("") };
        let mut found = Found { entries: Vec::new(), complete: true };
        for (count, entry) in self.builder(dir, &start, in_outputs).build().enumerate() {
            if count >= ENTRIES_MAX || context.time_left().is_zero() || context.cancel.is_cancelled() {
                found.complete = false;
                break;
            }
            let Ok(entry) = entry else { continue }; // a directory that may not be read
            let Some(kind) = entry.file_type().filter(|kind| kind.is_file() || (kind.is_dir() && !self.recursive))
            else {
                continue;
            };
            let Ok(below) = entry.path().strip_prefix(dir.path()) else { continue };
            let from_start = below.strip_prefix(&start).unwrap_or(below);
            let is_start = from_start.as_os_str().is_empty();
            if (is_start && kind.is_dir()) || glob.as_ref().is_some_and(|glob| !is_start && !glob.is_match(from_start))
            {
                continue;
            }
            let metadata = entry.metadata().ok();
            found.entries.push(Entry {
                path: shown(&prefix.join(below)),
                size: metadata.as_ref().filter(|_| kind.is_file()).map_or(0, std::fs::Metadata::len),
                is_dir: kind.is_dir(),
                modified: metadata.and_then(|metadata| metadata.modified().ok()?.try_into().ok()),
            });
        }
        found.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn builder(&self, dir: &Dir, start: &Path, in_outputs: bool) -> WalkBuilder {
        let (mut walk, shows) = (WalkBuilder::new(dir.path().join(start)), dir.shows());
        // The rules of a repository around the outputs are about the outputs as a whole, not about what is in them.
        walk.standard_filters(!self.all && !in_outputs)
            .require_git(false)
            .git_global(false) // the rules of whoever runs Skep are not the workspace's
            .follow_links(false)
            .max_depth((!self.recursive).then_some(1))
            .filter_entry(move |entry| entry.depth() == 0 || (entry.file_name() != ".git" && shows(entry)));
        walk
    }
}

/// A pattern as .gitignore has them: without a slash it is about the name, with one about the path.
fn matcher(pattern: &str, argument: &str) -> Result<GlobMatcher, ToolError> {
    let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
    let anywhere = if pattern.contains('/') { "" } else { "**/" };
    let glob =
        GlobBuilder::new(&format!("{anywhere}{}", pattern.trim_start_matches('/'))).literal_separator(true).build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| ToolError::argument(argument, format!("{pattern:?} is not a pattern: {}", error.kind())))
}

/// The files that a path or a pattern names; a pattern is looked for in the workspace, or in the outputs if it begins
/// with `outputs/`. A plain path is given back without a look.
pub(crate) fn matching(context: &Context, pattern: &str) -> Result<Vec<String>, ToolError> {
    if !pattern.contains(['*', '?', '[', '{']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let (path, glob) = match pattern.strip_prefix("outputs/") {
        Some(glob) => (OUTPUTS, glob),
        None => (".", pattern),
    };
    let walk = Walk { path: path.to_owned(), glob: Some(glob.to_owned()), recursive: true, all: false };
    Ok(walk.run(context)?.entries.into_iter().map(|entry| entry.path).collect())
}

/// A path as text. One that is not UTF-8 is shown as well as it can be, but cannot be named.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
