//! Processes of this machine as `/proc` shows them: who has started whom, and how all of it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long processes are killed that start others all the time.
const KILL_TIME_MAX: Duration = Duration::from_secs(2);
/// Between two looks at what is left.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What `/proc` tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: u32,
    /// When it was started, in ticks since the machine's start. Numbers are used again; with this,
    /// they name one process.
    pub(super) started: u64,
}

/// A process, unless it has ended: the fields 3 (state), 4 (ppid) and 22 (starttime) of proc(5)'s
/// `stat`, counted after the name, which may hold anything.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, started: fields.nth(17)?.parse().ok()? })
}

/// The processes that this one has started itself.
pub(super) fn children(of: u32) -> Vec<u32> {
    all().into_iter().filter(|(_, stat)| stat.parent == of).map(|(pid, _)| pid).collect()
}

/// Kill everything that a process has started, and what that has started, until nothing is left;
/// not the process itself. Whether nothing is left. `meanwhile` is done between two looks.
pub(super) fn kill_below(root: u32, mut meanwhile: impl FnMut()) -> bool {
    let began = Instant::now();
    loop {
        let below = below(root);
        if below.is_empty() {
            return true;
        }
        below.into_iter().for_each(|(pid, stat)| kill(pid, stat));
        meanwhile();
        if began.elapsed() > KILL_TIME_MAX {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn below(root: u32) -> Vec<(u32, Stat)> {
    let all = all();
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            all.iter().filter(|(_, stat)| found.contains(&stat.parent)).map(|(pid, _)| *pid).collect::<Vec<_>>(),
        );
        if found.len() == before {
            break;
        }
    }
    all.into_iter().filter(|(pid, _)| *pid != root && found.contains(pid)).collect()
}

fn all() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// Kill the process that was seen so, and no other that has its number by now.
fn kill(pid: u32, seen: Stat) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return };
    if stat(pid).is_some_and(|now| now.started == seen.started) {
        let _ = pidfd_send_signal(&process, Signal::KILL); // it may have ended
    }
}
