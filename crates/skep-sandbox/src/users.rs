//! Whose processes the sandboxes are.
//!
//! Owns the choice of ids and their maps. The rule behind it: id 0 of the machine is never mapped into a sandbox, since
//! whatever slips through a mount or a descriptor would then belong to root, and the kernel's limits on processes do
//! not hold for root at all.

use std::{fs, os::fd::AsFd};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    process::{getegid, geteuid},
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::fault::{At, Fault};

/// Ids that the sandboxes of a server run by root may use, one each: also how many can live at once.
pub(crate) const USERS_MAX: u32 = 4096;
/// The id of containers, behind those.
pub(crate) const CONTAINER_USER: u32 = USERS_FROM + USERS_MAX + 1;
/// Where those ids start. systemd's list of id ranges keeps this one free, and `useradd` never comes here.
const USERS_FROM: u32 = 2_000_000_000;

/// Whose processes the sandboxes' are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Users {
    /// The server's user and group.
    Own { user: u32, group: u32 },
    /// Ids from this one on, the first for the zygote.
    Range { from: u32, count: u32 },
}

impl Users {
    pub(crate) fn choose() -> Result<Users, Fault> {
        let own = Users::Own { user: geteuid().as_raw(), group: getegid().as_raw() };
        if !geteuid().is_root() {
            return Ok(own);
        }
        let map = fs::read_to_string("/proc/self/uid_map").at("read /proc/self/uid_map")?;
        match Root::of(&map) {
            Root::Has { from, count } => Ok(Users::Range { from, count }),
            Root::IsAnother => Ok(own),
            Root::IsAlone => Err(Errno::PERM).at("find a user other than root"),
        }
    }
}

/// What root is in its namespace.
#[derive(Debug, PartialEq)]
enum Root {
    /// It has other ids to give.
    Has { from: u32, count: u32 },
    /// The root of a namespace that an ordinary user made, without other ids.
    IsAnother,
    /// Root of the machine as far as one can see, without other ids.
    IsAlone,
}

impl Root {
    /// Reads it from a `uid_map`.
    fn of(map: &str) -> Root {
        let line = |line: &str| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
            Some([numbers.next()??, numbers.next()??, numbers.next()??])
        };
        let lines: Vec<[u64; 3]> = map.lines().filter_map(line).collect();
        let wanted = u64::from(USERS_MAX) + 1;
        let from = u64::from(USERS_FROM);
        if lines.iter().any(|[inside, _, count]| *inside <= from && from + wanted <= inside + count) {
            return Root::Has { from: USERS_FROM, count: USERS_MAX + 1 };
        }
        // Inside a container: the last ids that it has, which are the ones least likely to mean somebody.
        let Some([inside, outside, count]) = lines.into_iter().max_by_key(|[inside, _, count]| inside + count) else {
            return Root::IsAlone;
        };
        let available = if inside == 0 { count.saturating_sub(1) } else { count }.min(wanted);
        match inside + count - available {
            from if available >= 2 => Root::Has { from: from as u32, count: available as u32 },
            _ if inside == 0 && outside != 0 => Root::IsAnother,
            _ => Root::IsAlone,
        }
    }
}

/// Changes every id of the process to `id`, and leaves all groups.
pub(crate) fn become_user(id: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Maps one id of the parent namespace into that of the caller, who has it as its effective id.
pub(crate) fn map_user(proc: impl AsFd, inside: u32, parent: (u32, u32)) -> Result<(), Fault> {
    let put = |file: &str, text: String| {
        let fd = openat(&proc, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, text.as_bytes()).map(drop)
    };
    put("self/setgroups", "deny".into()).at("map users")?;
    put("self/uid_map", format!("{inside} {} 1", parent.0)).at("map users")?;
    put("self/gid_map", format!("{inside} {} 1", parent.1)).at("map users")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_never_mapped() {
        let host = "         0          0 4294967295\n";
        assert_eq!(Root::of(host), Root::Has { from: USERS_FROM, count: USERS_MAX + 1 });
        assert_eq!(Root::of("0 100000 65536\n"), Root::Has { from: 65536 - 4097, count: 4097 });
        assert_eq!(Root::of("0 1000 1\n1 100000 65536\n"), Root::Has { from: 65537 - 4097, count: 4097 });
        assert_eq!(Root::of("0 5000 3\n"), Root::Has { from: 1, count: 2 });
        assert_eq!(Root::of("0 1000 1\n"), Root::IsAnother);
        assert_eq!(Root::of("0 0 1\n"), Root::IsAlone);
        assert_eq!(Root::of(""), Root::IsAlone);
    }
}
