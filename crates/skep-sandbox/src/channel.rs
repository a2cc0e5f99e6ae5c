//! Messages on sockets, without waiting for them in a thread: what the server hears the helper and sandboxes by.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::{Interest, unix::AsyncFd};

use crate::wire;

/// Longest message from the helper or a sandbox, in bytes.
const REPLY_MAX: usize = 8 << 10;

/// A pair of connected sockets; the first is for this process's event loop.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Gives a socket to the event loop.
pub(crate) fn listen(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, and nothing exchanges what is in the `AsyncFd`.
    unsafe { AsyncFd::register(socket) }.map_err(|error| error.into())
}

/// Sends a message.
pub(crate) async fn send(socket: &AsyncFd<OwnedFd>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, |socket| wire::send(socket.as_fd(), bytes, fds)).await
}

/// The next message; `None` when the other side is closed.
pub(crate) async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    socket
        .async_io(Interest::READABLE, |socket| {
            let mut buffer = [0; REPLY_MAX];
            let received = wire::receive(socket.as_fd(), &mut buffer)?;
            Ok(received.map(|(length, fds)| (buffer[..length].to_vec(), fds)))
        })
        .await
}
