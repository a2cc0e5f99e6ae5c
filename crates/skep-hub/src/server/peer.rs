//! Whose connection it is: without a token, a hub answers its own user and root, and nobody else.
//!
//! Every user of a machine can connect to its loopback addresses. The kernel knows who made the socket at the other end,
//! and says so when asked by the connection's two addresses (`sock_diag(7)`). That is asked once for each connection,
//! when it is accepted. For a Unix socket the kernel has noted it with the connection (`SO_PEERCRED`).
//!
//! Whatever is not certain is not this user: no answer, a socket that its program has closed already (the kernel reports
//! those as root's), one on another machine or in another network namespace, or one that reached the hub through a rule
//! that rewrites addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, netlink::SocketAddrNetlink, recvfrom,
        sendto, socket_with,
    },
    process::geteuid,
};

/// The number of root, and of whoever has no number in this user namespace.
const ROOT: u32 = 0;
const UNMAPPED: u32 = 65534;

/// Numbers of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Bytes of a message's head (`nlmsghdr`), and of a question with it (`inet_diag_req_v2`).
const HEAD_BYTES: usize = 16;
const QUESTION_BYTES: usize = HEAD_BYTES + 56;
/// Where in an answer (`inet_diag_msg`) the two ends, the user and the inode are: ports, then addresses of 16 bytes each.
const PORTS_AT: usize = 4;
const ADDRESSES_AT: usize = 8;
const USER_AT: usize = 64;
const INODE_AT: usize = 68;
/// Bytes of an answer with the attributes that the kernel may add.
const REPLY_BYTES_MAX: usize = 4096;

/// Whether a user of this machine is this hub's own, or root. An error is reported and means no.
pub(super) fn is_own(user: io::Result<u32>) -> bool {
    match user {
        Ok(user) => user == ROOT || (user == geteuid().as_raw() && (user != UNMAPPED || all_users_are_mapped())),
        Err(error) => {
            tracing::debug!(%error, "it cannot be told whose connection this is");
            false
        }
    }
}

/// In a user namespace that lacks some, several users have the same number.
fn all_users_are_mapped() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The user who made the socket at `theirs` that is connected to `ours`.
pub(super) fn user_of(theirs: SocketAddr, ours: SocketAddr) -> io::Result<u32> {
    let question = question(theirs, ours)?;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0; REPLY_BYTES_MAX];
    // The kernel has answered when `sendto` returns.
    let (_, bytes, from) = recvfrom(&socket, &mut reply, RecvFlags::DONTWAIT)?;
    let is_from_kernel = from.is_some_and(|from| SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == 0));
    if !is_from_kernel {
        return Err(io::Error::other("the answer is not the kernel's"));
    }
    let reply = reply.get(..bytes).ok_or_else(garbled)?;
    read_answer(reply, [theirs, ours])
}

/// Whether the kernel tells whose connections are, without which a hub that has no token answers on its Unix socket alone.
///
/// # Errors
///
/// What it says instead of an answer.
pub fn check() -> io::Result<()> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    match user_of(nowhere, nowhere) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn question(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Vec<u8>> {
    // A connection of an IPv6 socket to an IPv4 address is one of IPv4.
    let (family, source, destination) = match (theirs.ip().to_canonical(), ours.ip().to_canonical()) {
        (IpAddr::V4(theirs), IpAddr::V4(ours)) => (AF_INET, padded(&theirs.octets()), padded(&ours.octets())),
        (IpAddr::V6(theirs), IpAddr::V6(ours)) => (AF_INET6, theirs.octets(), ours.octets()),
        _ => return Err(io::Error::other("the two ends have different kinds of addresses")),
    };
    let mut question = Vec::with_capacity(QUESTION_BYTES);
    question.extend((QUESTION_BYTES as u32).to_ne_bytes());
    question.extend([SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST].map(u16::to_ne_bytes).as_flattened());
    question.extend([0; 8]); // number and sender, of which there is one
    question.extend([family, IPPROTO_TCP, 0, 0]);
    question.extend(u32::MAX.to_ne_bytes()); // in whatever state
    question.extend([theirs.port(), ours.port()].map(u16::to_be_bytes).as_flattened());
    question.extend(source);
    question.extend(destination);
    question.extend([0; 4]); // on any interface
    question.extend([0xff; 8]); // whatever its cookie
    Ok(question)
}

fn padded(address: &[u8; 4]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..4].copy_from_slice(address);
    padded
}

fn read_answer(reply: &[u8], asked: [SocketAddr; 2]) -> io::Result<u32> {
    let kind = u16::from_ne_bytes(bytes_at(reply, 4)?);
    let body = reply.get(HEAD_BYTES..).ok_or_else(garbled)?;
    let number = |at: usize| bytes_at(body, at).map(u32::from_ne_bytes);
    match kind {
        NLMSG_ERROR => return Err(io::Error::from_raw_os_error(number(0)?.cast_signed().saturating_neg())),
        SOCK_DIAG_BY_FAMILY => {}
        _ => return Err(garbled()),
    }
    // Where the connection is gone, the kernel may answer with a socket that listens on the caller's port.
    for (index, asked) in asked.into_iter().enumerate() {
        let port = u16::from_be_bytes(bytes_at(body, PORTS_AT + 2 * index)?);
        let address: [u8; 16] = bytes_at(body, ADDRESSES_AT + 16 * index)?;
        let address = match body[0] {
            AF_INET => IpAddr::from(bytes_at::<4>(&address, 0)?),
            _ => IpAddr::from(address).to_canonical(),
        };
        if (address, port) != (asked.ip().to_canonical(), asked.port()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the connection is gone"));
        }
    }
    match number(INODE_AT)? {
        // A socket that no program has open any more is said to be root's.
        0 => Err(io::Error::new(io::ErrorKind::NotFound, "its program has closed the connection")),
        _ => number(USER_AT),
    }
}

fn bytes_at<const BYTES: usize>(from: &[u8], at: usize) -> io::Result<[u8; BYTES]> {
    from.get(at..at + BYTES).and_then(|bytes| bytes.try_into().ok()).ok_or_else(garbled)
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not understood")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

    use super::*;

    fn connected(listen: &str, connect: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(listen).ok()?; // not every machine has IPv6
        let port = listener.local_addr().unwrap().port();
        let theirs = TcpStream::connect((connect, port)).unwrap();
        Some((theirs, listener.accept().unwrap().0))
    }

    fn asked(ours: &TcpStream) -> io::Result<u32> {
        user_of(ours.peer_addr().unwrap(), ours.local_addr().unwrap())
    }

    #[test]
    fn the_kernel_says_whose_a_connection_is_in_both_families_and_between_them() {
        check().unwrap();
        let pairs = [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ];
        let mut asked_of = 0;
        for (listen, connect) in pairs {
            let Some((_theirs, ours)) = connected(listen, connect) else { continue };
            assert_eq!(asked(&ours).unwrap(), geteuid().as_raw(), "{listen} {connect}");
            assert!(is_own(asked(&ours)));
            asked_of += 1;
        }
        assert!(asked_of >= 2);
    }

    #[test]
    fn a_connection_that_its_program_has_closed_is_nobodys() {
        let (theirs, ours) = connected("127.0.0.1:0", "127.0.0.1").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(asked(&ours).unwrap(), geteuid().as_raw(), "it still waits for its answer");
        let (peer, here) = (ours.peer_addr().unwrap(), ours.local_addr().unwrap());
        drop(theirs);
        assert!(!is_own(user_of(peer, here)), "the kernel would say root");
        drop(ours);
        assert!(!is_own(user_of(peer, here)));
    }

    #[test]
    fn a_socket_that_listens_on_the_callers_port_is_not_taken_for_the_caller() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = listener.local_addr().unwrap();
        let ours = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert_eq!(user_of(gone, ours).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
