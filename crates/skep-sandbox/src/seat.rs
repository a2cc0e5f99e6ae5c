//! What living sandboxes have one each of: a user, an empty network, and where there are any, a cgroup.
//!
//! Owns the free ones, and the moment in which the zygote takes on what the process that it clones next is to have.
//! Both may be used again only when no process of the sandbox is left, that is when its keeper has been reaped.
//!
//! Networks are kept because making one costs more than the rest of a sandbox together and does not scale with
//! processors. An empty one has nothing that could be left in it: its loopback is down, only the zygote's user namespace
//! has rights to it, and its sockets die with their processes.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    process::{DumpableBehavior, geteuid, set_dumpable_behavior},
    thread::{
        Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid,
        unshare_unsafe,
    },
};

use crate::{
    cgroup::{Ceiling, Cgroup, Tree},
    fault::{At, Fault},
};

/// Free networks that are kept; each is about 50 kB of the kernel's memory.
const NETWORKS_MAX: usize = 64;

/// What one sandbox has.
pub(crate) struct Seat {
    /// An id of the zygote's namespace.
    pub(crate) user: u32,
    /// An empty network, unless the sandbox makes its own.
    network: Option<OwnedFd>,
    /// What limits all of it together, where that can be had.
    pub(crate) cgroup: Option<Cgroup>,
}

/// Those that are free.
pub(crate) struct Seats {
    /// The one that has rested longest first. `None` if the server's user is all there is.
    users: Option<VecDeque<u32>>,
    networks: Vec<OwnedFd>,
    /// Where cgroups are made. These are not used again: they remember what was in them.
    cgroups: Option<Tree>,
}

impl Seats {
    pub(crate) fn new(users: Option<VecDeque<u32>>, cgroups: Option<Tree>) -> Seats {
        Seats { users, networks: Vec::new(), cgroups }
    }

    /// Whether there is a ceiling on memory, and one on processes.
    pub(crate) fn ceilings(&self) -> (bool, bool) {
        self.cgroups.as_ref().map_or((false, false), |tree| (tree.memory, tree.processes))
    }

    /// A free seat, with an empty network if `network` is to be kept in one, and under this ceiling if that can be.
    pub(crate) fn take(&mut self, network: bool, proc: &OwnedFd, ceiling: Ceiling) -> Result<Seat, Fault> {
        let user = match &mut self.users {
            None => 0,
            Some(users) => users.pop_front().ok_or(Errno::AGAIN).at("find a free user")?,
        };
        let network = match network {
            true => self.networks.pop().map_or_else(|| make_network(proc), Ok).map(Some),
            false => Ok(None),
        };
        let mut seat = Seat { user, network: None, cgroup: None };
        let taken = network.and_then(|network| {
            seat.network = network;
            seat.cgroup = self.cgroups.as_mut().map(|tree| tree.cgroup(ceiling)).transpose()?;
            Ok(())
        });
        match taken {
            Ok(()) => Ok(seat),
            Err(fault) => {
                self.give_back(seat);
                Err(fault)
            }
        }
    }

    /// Removes what is of no use any more, when there is time.
    pub(crate) fn tidy(&mut self) {
        if let Some(tree) = &mut self.cgroups {
            tree.tidy();
        }
    }

    pub(crate) fn give_back(&mut self, seat: Seat) {
        if let Some(users) = &mut self.users {
            users.push_back(seat.user);
        }
        if self.networks.len() < NETWORKS_MAX {
            self.networks.extend(seat.network);
        }
        if let (Some(tree), Some(cgroup)) = (&mut self.cgroups, seat.cgroup) {
            tree.give_back(cgroup);
        }
    }
}

impl Seat {
    /// Whether something lives in its cgroup, if it has one.
    pub(crate) fn lives(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::lives)
    }

    /// Makes the zygote's next child belong to this seat.
    pub(crate) fn enter(&self) -> Result<(), Fault> {
        if let Some(network) = &self.network {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).at("enter a network")?;
        }
        lend(self.user)
    }

    /// Makes the zygote itself again. The network stays: an empty one is as good as another.
    pub(crate) fn leave() -> Result<(), Fault> {
        lend(0)
    }
}

/// Moves the zygote into a new, empty network and keeps it.
fn make_network(proc: &OwnedFd) -> Result<OwnedFd, Fault> {
    // SAFETY: concerns the network only; no descriptor or directory changes under anybody.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.at("make a network")?;
    openat(proc, "self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("keep a network")
}

/// Puts on the effective user `id` of the zygote's namespace, so that what is cloned next belongs to it. 0 is the
/// zygote's own, and puts its capabilities back.
fn lend(id: u32) -> Result<(), Fault> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    if geteuid() == uid {
        return Ok(());
    }
    // The group first on the way out and last on the way back: changing it needs the capabilities of 0.
    if id != 0 {
        set_thread_res_gid(None, gid, None).at("lend a group")?;
    }
    set_thread_res_uid(None, uid, None).at("lend a user")?;
    if id == 0 {
        set_thread_res_gid(None, gid, None).at("lend a group")?;
    }
    set_dumpable_behavior(DumpableBehavior::Dumpable).at("stay dumpable")
}
