//! A walk through a directory: which files it has that belong to the workspace, and which do not and why.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use skep_core::{limits::FILE_BYTES_MAX, path::FilePath};
use skep_tools::workspace::{Dir, Identity};

use super::ignored::{Ignored, is_beside};

/// Files that a directory may have.
pub(super) const FILES_MAX: usize = 50_000;
/// Bytes that the files of a directory may have together.
pub(super) const BYTES_MAX: u64 = 4 << 30;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The files.
    pub(super) files: Vec<(FilePath, Identity)>,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    /// What is not kept in step, and why.
    pub(super) left_out: Vec<(String, String)>,
}

/// Why a directory cannot be kept in step.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error("it has more than {FILES_MAX} files; name some in .skepignore that need not be kept in step")]
    TooManyFiles,
    #[error("its files have more than {} GiB; name some in .skepignore that need not be kept in step", BYTES_MAX >> 30)]
    TooManyBytes,
    #[error("it is gone")]
    Gone,
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Walk through a directory below `dir`, or `dir` itself. Each directory is first given to `enter`, and read then, so that
/// whoever watches it from there on misses nothing.
pub(super) fn walk(
    dir: &Dir,
    from: &Path,
    ignored: &mut Ignored,
    mut enter: impl FnMut(&Path),
) -> Result<Found, WalkError> {
    if dir.is_deleted()? {
        return Err(WalkError::Gone);
    }
    let is_hidden = dir.hides();
    let mut found = Found::default();
    let mut directories = vec![from.to_owned()];
    while let Some(directory) = directories.pop() {
        enter(&directory);
        ignored.read(dir, &directory);
        let entries = match fs::read_dir(dir.path().join(&directory)) {
            Ok(entries) => entries,
            Err(error) if directory.as_os_str().is_empty() => return Err(error.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                found.left_out.push((directory.display().to_string(), format!("cannot be read: {error}")));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if ignored.covers_entry(&path, kind.is_dir()) || is_hidden(&path) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else {
                found.add(path, &entry)?;
            }
        }
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, path: PathBuf, entry: &fs::DirEntry) -> Result<(), WalkError> {
        // What is gone by now is none of the files.
        let Ok(about) = entry.metadata() else { return Ok(()) };
        match path_of(&path) {
            Ok(name) if about.is_file() && about.len() <= FILE_BYTES_MAX as u64 => {
                self.bytes = self.bytes.saturating_add(about.len());
                self.files.push((name, Identity::of_metadata(&about)));
            }
            Ok(name) => self.left_out.push((name.as_str().to_owned(), why_not(&about))),
            Err(why) => self.left_out.push((path.display().to_string(), why)),
        }
        if self.files.len() > FILES_MAX {
            return Err(WalkError::TooManyFiles);
        }
        if self.bytes > BYTES_MAX { Err(WalkError::TooManyBytes) } else { Ok(()) }
    }
}

fn why_not(about: &fs::Metadata) -> String {
    if about.is_symlink() {
        "is a symbolic link".to_owned()
    } else if about.is_file() {
        too_large()
    } else {
        "is no regular file".to_owned()
    }
}

/// Why a large file is left out.
pub(super) fn too_large() -> String {
    format!("is larger than {} MiB", FILE_BYTES_MAX >> 20)
}

/// What a file of the directory is called in the workspace, or why it cannot be called so.
pub(super) fn path_of(path: &Path) -> Result<FilePath, String> {
    let text = path.to_str().ok_or("has a name that is not UTF-8")?;
    let name = FilePath::new(text).map_err(|error| format!("has a name that no file of a workspace has: {error}"))?;
    if name.as_str() == text { Ok(name) } else { Err("has a name that is not in Unicode's NFC".to_owned()) }
}

/// Delete what a hub left that was killed while it wrote. Nobody else may be writing meanwhile.
pub(super) fn remove_left_behind(dir: &Dir) {
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(dir.path().join(&directory)).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), directory.join(entry.file_name()));
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != OsStr::new(".git") => directories.push(path),
                Ok(kind) if kind.is_file() && is_beside(&name) => {
                    if let Ok((Some(_), seen)) = dir.read_seen(&path, FILE_BYTES_MAX as u64) {
                        let _ = dir.remove_if_same(&path, &seen); // it is ignored in any case
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStrExt as _, fs::symlink};

    use super::*;

    #[test]
    fn what_is_no_file_of_a_workspace_is_left_out_with_a_reason() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("src/target")).unwrap();
        for file in ["a", "src/b", "src/target/c", "src/.gitignore", ".skep-00000000000000ff"] {
            fs::write(at(file), "x").unwrap();
        }
        fs::write(at("src/.gitignore"), "target\n").unwrap();
        symlink("a", at("link")).unwrap();
        fs::File::create(at("large")).unwrap().set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
        fs::File::create(at("full")).unwrap().set_len(FILE_BYTES_MAX as u64).unwrap();
        fs::write(top.path().join(OsStr::from_bytes(b"\xff")), "x").unwrap();
        fs::write(at("cafe\u{301}"), "x").unwrap();
        fs::write(at("dot."), "x").unwrap();
        let dir = Dir::open(top.path()).unwrap().without_links();
        let (mut ignored, mut entered) = (Ignored::default(), Vec::new());
        let found = walk(&dir, Path::new(""), &mut ignored, |path| entered.push(path.to_owned())).unwrap();
        let mut files: Vec<&str> = found.files.iter().map(|(path, _)| path.as_str()).collect();
        files.sort_unstable();
        assert_eq!(files, ["a", "full", "src/.gitignore", "src/b"]);
        assert_eq!(entered, [Path::new(""), Path::new("src")]);
        let mut why: Vec<String> = found.left_out.iter().map(|(path, why)| format!("{path} {why}")).collect();
        why.sort_unstable();
        assert_eq!(why.len(), 5, "{why:?}");
        for said in ["large is larger than 10 MiB", "link is a symbolic link", "not UTF-8", "NFC", "ends in a dot"] {
            assert!(why.iter().any(|why| why.contains(said)), "{said}: {why:?}");
        }
        remove_left_behind(&dir);
        assert!(!at(".skep-00000000000000ff").exists() && at("src/target/c").exists());
        fs::remove_dir_all(top.path()).unwrap();
        assert!(matches!(walk(&dir, Path::new(""), &mut ignored, |_| ()), Err(WalkError::Gone)));
    }
}
