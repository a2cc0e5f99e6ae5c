//! The memory that sockets of a network namespace hold: what was sent and nobody has read.
//!
//! No file of `/proc` tells that for sockets of the Unix family, so the kernel is asked for all sockets by a socket of
//! its own (`sock_diag`). That lists those which are open. One that was closed after it had sent lives on with its data,
//! unlisted; how many of those there are is known, and how much each can hold, because the filter lets nobody grow it.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::{Errno, read, write},
    net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with, sockopt},
};

/// Room for one answer of the kernel, in bytes; it fills at most half of it.
const ANSWER_BYTES_MAX: usize = 32 << 10;
/// Answers about one family; sockets beyond are taken for closed ones.
const ANSWERS_MAX: usize = 4096;

/// A family of sockets, the length of what is asked and answered about it, and the attribute that has its memory.
struct Family {
    family: libc::c_int,
    protocol: libc::c_int,
    message: usize,
    memory: u16,
}

const FAMILIES: [Family; 5] = {
    const UNIX_DIAG_MEMINFO: u16 = 5;
    const INET_DIAG_SKMEMINFO: u16 = 7;
    const fn inet(family: libc::c_int, protocol: libc::c_int) -> Family {
        Family { family, protocol, message: 72, memory: INET_DIAG_SKMEMINFO }
    }
    [
        Family { family: libc::AF_UNIX, protocol: 0, message: 16, memory: UNIX_DIAG_MEMINFO },
        inet(libc::AF_INET, libc::IPPROTO_TCP),
        inet(libc::AF_INET, libc::IPPROTO_UDP),
        inet(libc::AF_INET6, libc::IPPROTO_TCP),
        inet(libc::AF_INET6, libc::IPPROTO_UDP),
    ]
};

/// Asks about the sockets of the caller's network namespace.
pub(crate) struct Sockets {
    kernel: OwnedFd,
    /// What a sender can hold: it may begin one more message when its buffer is not quite full.
    sender_bytes_max: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    sockets: u64,
    bytes: u64,
}

impl Sockets {
    /// An error: this kernel cannot be asked.
    pub(crate) fn new() -> io::Result<Sockets> {
        let kind = (AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let kernel = socket_with(kind.0, kind.1, kind.2, Some(netlink::SOCK_DIAG))?;
        let sender = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let sender_bytes_max = 2 * sockopt::socket_send_buffer_size(&sender)? as u64;
        drop(sender);
        let sockets = Sockets { kernel, sender_bytes_max };
        sockets.ask(&FAMILIES[0])?;
        Ok(sockets)
    }

    /// Bytes that they hold, if `used` is how many there are beside the one that asks. A kernel that does not answer
    /// for a family has none of it.
    pub(crate) fn bytes(&self, used: u64) -> u64 {
        if used == 0 {
            return 0;
        }
        let found = FAMILIES.iter().filter_map(|family| self.ask(family).ok());
        let found = found.fold(Found::default(), |sum, one| Found {
            sockets: sum.sockets + one.sockets,
            bytes: sum.bytes + one.bytes,
        });
        found.bytes + used.saturating_sub(found.sockets) * self.sender_bytes_max
    }

    fn ask(&self, family: &Family) -> Result<Found, Errno> {
        write(&self.kernel, &request(family))?;
        let mut found = Found::default();
        let mut answer = [0; ANSWER_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let length = read(&self.kernel, &mut answer)?;
            if take(&answer[..length], family, &mut found)? {
                return Ok(found);
            }
        }
        Ok(found)
    }
}

/// Types of messages: the kernel's `nlmsghdr` and `sock_diag`.
const DONE: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const BY_FAMILY: u16 = 20;
/// Length of a message's head.
const HEAD: usize = 16;
/// TCP states whose sockets are not whole any more, and are not among those that are counted.
const HALF_STATES: u32 = 1 << 6 | 1 << 12;

/// The question about every socket of a family: the kernel's `unix_diag_req` or `inet_diag_req_v2`.
fn request(family: &Family) -> Vec<u8> {
    const SHOW_MEMORY: u32 = 0x20;
    let mut body = vec![family.family as u8, family.protocol as u8];
    if family.family == libc::AF_UNIX {
        body.extend([0; 2]);
        for word in [u32::MAX, 0, SHOW_MEMORY, 0, 0] {
            body.extend(word.to_ne_bytes());
        }
    } else {
        body.extend([1 << (family.memory - 1), 0]);
        body.extend((!HALF_STATES).to_ne_bytes());
        body.extend([0; 48]);
    }
    let mut message = Vec::with_capacity(HEAD + body.len());
    message.extend(((HEAD + body.len()) as u32).to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Takes an answer in: some sockets. `true`: it was the last.
fn take(mut answer: &[u8], family: &Family, found: &mut Found) -> Result<bool, Errno> {
    while let Some((head, _)) = answer.split_at_checked(HEAD) {
        let length = word(head, 0) as usize;
        let Some(body) = answer.get(HEAD..length) else { return Err(Errno::PROTO) };
        match half(head, 4) {
            DONE => return Ok(true),
            ERROR => return Err(Errno::from_raw_os_error(-(word(body, 0) as i32))),
            _ => {
                found.sockets += 1;
                found.bytes += memory(body.get(family.message..).unwrap_or_default(), family.memory);
            }
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The memory that a socket's attributes tell of.
fn memory(mut attributes: &[u8], wanted: u16) -> u64 {
    // The kernel's `sk_meminfo`: what was received, what may be sent and is, what is set aside, queued, waits.
    const RECEIVED: usize = 0;
    const SENT: usize = 2;
    const AHEAD: usize = 4;
    const QUEUED: usize = 5;
    const BACKLOG: usize = 7;
    while attributes.len() >= 4 {
        let length = usize::from(half(attributes, 0)).max(4);
        if half(attributes, 2) == wanted {
            let number = |index: usize| u64::from(word(attributes, 4 + 4 * index));
            return number(RECEIVED) + number(SENT).max(number(QUEUED)) + number(AHEAD) + number(BACKLOG);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    0
}

/// Numbers of the kernel; what is not there is 0.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn what_was_sent_and_not_read_is_counted() {
        let sockets = Sockets::new().unwrap();
        let all = |sockets: &Sockets| FAMILIES.map(|family| sockets.ask(&family).unwrap_or_default().bytes);
        let before = all(&sockets);
        let (mut sender, _receiver) = UnixStream::pair().unwrap();
        sender.write_all(&[0; 100_000]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(&[0; 100_000]).unwrap();
        let now = all(&sockets);
        // Other tests have sockets, too, so this is a matter of what is there at least.
        assert!(now[0] >= 100_000 && now[1] >= 100_000, "{before:?} {now:?}");
    }

    #[test]
    fn what_cannot_be_seen_is_taken_for_full() {
        let sockets = Sockets::new().unwrap();
        assert_eq!(sockets.bytes(0), 0);
        let many = 1 << 20;
        assert!(sockets.bytes(many) > (many - 100_000) * sockets.sender_bytes_max);
    }

    #[test]
    fn an_answer_that_is_cut_short_harms_nobody() {
        let mut found = Found::default();
        for length in [0u32, 3, 16, 17, 4000, u32::MAX] {
            let mut answer = length.to_ne_bytes().to_vec();
            answer.extend([20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
            let _ = take(&answer, &FAMILIES[0], &mut found);
        }
        assert_eq!(memory(&[1, 0, 9, 0, 1, 0, 9, 0], 5), 0);
        assert_eq!(memory(&[8, 0, 5, 0, 7, 0, 0, 0], 5), 7);
    }
}
