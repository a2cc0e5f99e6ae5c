//! What it takes to keep a directory in step with files that are kept elsewhere.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, fstat, unlinkat};

use super::{Dir, Identity, Seen};

impl Dir {
    /// The same directory, in which symbolic links lead nowhere, not even to what is below it.
    pub fn without_links(self) -> Dir {
        let resolve = self.resolve | ResolveFlags::NO_SYMLINKS;
        Dir { resolve, ..self }
    }

    /// Whether a path below it is not shown. What is hidden is looked up once.
    pub fn hides(&self) -> impl Fn(&Path) -> bool + Send + Sync + use<> {
        let looked = self.hidden.as_ref().map(|hidden| hidden.look());
        let dir = self.clone();
        move |path| looked.as_ref().is_some_and(|looked| looked.hides(path, |part| dir.identity(part)))
    }

    /// Whether it is gone: deleted, while this value still has it open.
    pub fn is_deleted(&self) -> io::Result<bool> {
        Ok(fstat(&self.fd)?.st_nlink == 0)
    }

    /// Delete a file, if there is still what was `seen` when it was read; and the directories on its way that are empty
    /// then. Otherwise nothing is deleted, and `false` given back.
    pub fn remove_if_same(&self, path: &Path, seen: &Seen) -> io::Result<bool> {
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let parent = self.open_at(above.unwrap_or(Path::new(".")), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        {
            let _turn = self.turn();
            if seen.identity.is_none() || Identity::at(&parent, name) != seen.identity {
                return Ok(false);
            }
            unlinkat(&parent, name, AtFlags::empty())?;
        }
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if !self.remove_empty(above) {
                break;
            }
        }
        Ok(true)
    }

    /// Delete a directory that has nothing in it. Whether that was done.
    pub fn remove_empty(&self, path: &Path) -> bool {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let above: PathBuf = above.unwrap_or(Path::new(".")).to_owned();
        let parent = self.open_at(&above, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let removed =
            parent.ok().zip(path.file_name()).map(|(parent, name)| unlinkat(parent, name, AtFlags::REMOVEDIR));
        matches!(removed, Some(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::create(&temporary.path().join("in")).unwrap().without_links();
        (temporary, dir)
    }

    #[test]
    fn no_link_is_followed_not_even_to_what_is_below() {
        let (_temporary, dir) = dir();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/a"), "1").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("real/a", dir.path().join("a")).unwrap();
        for path in ["link/a", "a"] {
            assert!(dir.read_seen(Path::new(path), 9).is_err(), "{path} was read");
        }
        assert!(dir.write(Path::new("link/b"), b"2").is_err());
        assert_eq!(dir.read(Path::new("real/a"), 9).unwrap(), b"1");
    }

    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        let (_temporary, dir) = dir();
        let path = Path::new("run.sh");
        fs::write(dir.path().join(path), "1").unwrap();
        fs::set_permissions(dir.path().join(path), Permissions::from_mode(0o750)).unwrap();
        let (_, seen) = dir.read_seen(path, 9).unwrap();
        assert!(dir.write_if_same(path, b"2", &seen).unwrap());
        assert_eq!(fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_file_is_deleted_as_it_was_seen_and_with_it_the_directories_that_are_empty_then() {
        let (_temporary, dir) = dir();
        let path = Path::new("a/b/c");
        dir.write(path, b"1").unwrap();
        dir.write(Path::new("a/d"), b"1").unwrap();
        let (_, seen) = dir.read_seen(path, 9).unwrap();
        dir.write(path, b"2").unwrap();
        assert!(!dir.remove_if_same(path, &seen).unwrap(), "it is another one");
        let (_, seen) = dir.read_seen(path, 9).unwrap();
        assert!(dir.remove_if_same(path, &seen).unwrap());
        assert!(!dir.path().join("a/b").exists() && dir.path().join("a/d").exists());
        assert!(!dir.remove_empty(Path::new("a")));
        assert!(!dir.is_deleted().unwrap());
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(dir.is_deleted().unwrap());
    }
}
