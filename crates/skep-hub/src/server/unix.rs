//! A Unix socket for this hub's own user, which needs no token: only that user can open it, and root.

use std::{
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};
use tokio::net::UnixListener;

/// Connections that wait to be accepted.
const WAITING_MAX: i32 = 1024;
/// How sockets are made.
const NEW: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The socket's file, which is removed when this goes, unless another one has taken its place.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    file: Identity,
}

/// Which file it is: device and inode, and when that was made, as its number is soon used again.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(file: &std::fs::Metadata) -> Identity {
    (file.dev(), file.ino(), file.created().ok())
}

/// Listen on a socket at this path, which only this user may open. One that a hub has left which runs no more is replaced.
///
/// # Errors
///
/// `AddrInUse` if somebody answers there, or if there is something else.
pub(super) fn open(path: &Path) -> io::Result<(UnixListener, Socket)> {
    remove_stale(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, NEW, None)?;
    // The file gets the socket's mode, so there is no moment at which others may open it; and then again, as the umask is
    // taken off.
    let mode = Mode::RUSR | Mode::WUSR;
    fchmod(&socket, mode)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode.bits()))?;
    let file = Socket { path: path.to_owned(), file: identity(&std::fs::symlink_metadata(path)?) };
    listen(&socket, WAITING_MAX)?;
    Ok((UnixListener::from_std(StdListener::from(socket))?, file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is a file that is no socket")),
    }
    // Without waiting, should the other one be stopped and its queue full.
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, NEW, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there already"))
        }
        Err(error) => Err(error.into()),
    }
}

impl Socket {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let is_ours = |file: std::fs::Metadata| identity(&file) == self.file;
        if std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.path); // nobody answers there any more anyway
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.sock");
        (directory, path)
    }

    #[tokio::test]
    async fn a_socket_is_its_users_alone_and_is_removed_with_its_hub() {
        let (_directory, path) = at();
        let (_listener, socket) = open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody answers there");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_hub_has_left_is_replaced_and_nothing_else() {
        let (_directory, path) = at();
        let (listener, socket) = open(&path).unwrap();
        drop(listener); // as a killed hub does
        let (_second, kept) = open(&path).unwrap();
        drop(socket);
        assert!(path.exists(), "it is the second one's by now");
        drop(kept);
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
