//! The system call filter: an allow-list, compiled to a balanced tree.
//!
//! Owns the compiler and the checks of arguments; [`calls`] owns the list. The shape matters: when a filter is loaded
//! the kernel runs it once for every call number to build its own bitmap, so depth is what loading costs. A tree loads
//! three times faster than the usual chain of comparisons.
//!
//! A call number says nothing without the machine that it is meant for, so that is checked first: another machine's
//! calls kill the process (32-bit calls on x86-64), x32 numbers are refused.

mod calls;

use libc::sock_filter;

use self::calls::{ALLOWED, CHECKED, Call, KNOWN_MAX, NONE, WITHHELD};
use crate::Tier;

/// A machine that a filter can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The machine that this program was compiled for.
    pub(crate) const THIS: Machine = if cfg!(target_arch = "x86_64") {
        Machine::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Machine::Aarch64
    } else {
        panic!("no system call table for this machine yet")
    };

    /// `AUDIT_ARCH_…` of the kernel.
    fn audit(self) -> u32 {
        match self {
            Machine::X86_64 => 0xC000_003E,
            Machine::Aarch64 => 0xC000_00B7,
        }
    }

    fn number(self, call: &Call) -> u32 {
        match self {
            Machine::X86_64 => call.1,
            Machine::Aarch64 => call.2,
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Allow,
    /// Refused with this error.
    Refuse(i32),
    /// Allowed if it passes every check.
    Check(&'static [Check]),
    /// Allowed, unless both of these arguments have these values: then it does nothing and answers that it did.
    Ignore([(u32, u32); 2]),
}

/// A condition on one argument, and the error for those that fail it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Check(u32, Test, i32);

/// Only the low 32 bits of an argument are compared, because that is all that the kernel looks at in these calls: a
/// filter that compares all 64 is passed by setting a high bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    NoneOfBits(u32),
    NoneOf(&'static [u32]),
    OneOf(&'static [u32]),
}

/// First number of the x32 calls: 64-bit machine, other table.
const X32: u32 = 0x4000_0000;

/// Namespaces that `clone` could make.
const NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// Families of sockets that reach no further than this sandbox. Not VSOCK (the hypervisor), not NETLINK, PACKET, ALG.
const FAMILIES: &[u32] = &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32];

/// The keeper of the sandbox, which runs under the same user, is process 1.
const NOT_THE_KEEPER: Test = Test::NoneOf(&[1]);

/// Kinds of socket pairs that stay pairs. The others take an address with every message, and could be turned to
/// sockets of the host.
const PAIRS: &[u32] = {
    const STREAM: u32 = libc::SOCK_STREAM as u32;
    const PACKETS: u32 = libc::SOCK_SEQPACKET as u32;
    const CLOEXEC: u32 = libc::SOCK_CLOEXEC as u32;
    const NONBLOCK: u32 = libc::SOCK_NONBLOCK as u32;
    &[
        STREAM,
        STREAM | CLOEXEC,
        STREAM | NONBLOCK,
        STREAM | CLOEXEC | NONBLOCK,
        PACKETS,
        PACKETS | CLOEXEC,
        PACKETS | NONBLOCK,
        PACKETS | CLOEXEC | NONBLOCK,
    ]
};

/// Both put words into the mouth of whoever owns the terminal.
const PUT_WORDS: &[u32] = &[libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

/// Questions to a terminal, and what is asked of pipes and descriptors. File systems answer others that change a file
/// of the same user which is open for reading (flags, versions, seals), and Landlock knows only those of devices.
const PLAIN_IOCTLS: &[u32] = &[
    libc::TCGETS as u32,
    libc::TIOCGPGRP as u32,
    libc::TIOCGWINSZ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
];

/// What is different for a call where a command has no namespaces of its own, so that sockets and processes of the host
/// are within reach.
fn rule_among_others(name: &str) -> Option<Rule> {
    use libc::{EAFNOSUPPORT, EPERM};
    Some(match name {
        "socket" => Rule::Refuse(EAFNOSUPPORT),
        // As a file system says that does not know it.
        "ioctl" => {
            Rule::Check(&[Check(1, Test::NoneOf(PUT_WORDS), EPERM), Check(1, Test::OneOf(PLAIN_IOCTLS), libc::ENOTTY)])
        }
        "socketpair" => Rule::Check(&[
            Check(0, Test::OneOf(&[libc::AF_UNIX as u32]), EAFNOSUPPORT),
            Check(1, Test::OneOf(PAIRS), EPERM),
        ]),
        "setpriority" => {
            Rule::Check(&[Check(0, Test::OneOf(&[libc::PRIO_PROCESS]), EPERM), Check(1, Test::OneOf(&[0]), EPERM)])
        }
        "sched_setaffinity" | "sched_setattr" | "sched_setparam" | "sched_setscheduler" => {
            Rule::Check(&[Check(0, Test::OneOf(&[0]), EPERM)])
        }
        name if WITHHELD.contains(&name) => Rule::Refuse(EPERM),
        _ => return None,
    })
}

fn rule(name: &str) -> Rule {
    use libc::{EAFNOSUPPORT, EPERM};
    match name {
        "clone" => Rule::Check(&[Check(0, Test::NoneOfBits(NAMESPACES), EPERM)]),
        // Its flags are in memory, where a filter cannot look. The C library falls back to `clone`.
        "clone3" => Rule::Refuse(libc::ENOSYS),
        "ioctl" => Rule::Check(&[Check(1, Test::NoneOf(PUT_WORDS), EPERM)]),
        "socket" | "socketpair" => Rule::Check(&[Check(0, Test::OneOf(FAMILIES), EAFNOSUPPORT)]),
        // The plain Linux personality, or the question which one it is.
        "personality" => Rule::Check(&[Check(0, Test::OneOf(&[0, u32::MAX]), EPERM)]),
        // Large pipes are taken from a quota that the whole user shares. A lease holds up whoever opens the file.
        "fcntl" => Rule::Check(&[Check(1, Test::NoneOf(&[libc::F_SETPIPE_SZ as u32, libc::F_SETLEASE as u32]), EPERM)]),
        // Only for the caller itself.
        "prlimit64" => Rule::Check(&[Check(0, Test::OneOf(&[0]), EPERM)]),
        // Of a single process only: the user and the group would include the keeper.
        "setpriority" => {
            Rule::Check(&[Check(0, Test::OneOf(&[libc::PRIO_PROCESS]), EPERM), Check(1, NOT_THE_KEEPER, EPERM)])
        }
        "sched_setaffinity" | "sched_setattr" | "sched_setparam" | "sched_setscheduler" => {
            Rule::Check(&[Check(0, NOT_THE_KEEPER, EPERM)])
        }
        // What lies in a socket's buffer is counted by its usual size (`sockets.rs`). The kernel, too, takes this for a
        // wish, so programs expect that it is granted in part.
        "setsockopt" => Rule::Ignore([(1, libc::SOL_SOCKET as u32), (2, libc::SO_SNDBUF as u32)]),
        _ => Rule::Refuse(EPERM),
    }
}

/// The filter for `machine` at `tier`, ready to be loaded.
pub(crate) fn program(machine: Machine, tier: Tier) -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, 0, 0, OFFSET_ARCH),
        instruction(JUMP_EQUAL, 1, 0, machine.audit()),
        instruction(RETURN, 0, 0, KILL_PROCESS),
        instruction(LOAD, 0, 0, OFFSET_NUMBER),
    ];
    program.extend(tree(&ranges(machine, tier)));
    program
}

/// The same list in the form of the OCI runtime specification. Runtimes have no argument tests as exact as ours, so calls
/// that are refused for some arguments are allowed if that leaves only what a container's namespaces keep in, and `clone`
/// only without new ones.
pub(crate) fn for_runtimes() -> serde_json::Value {
    use serde_json::json;
    let allowed = ALLOWED.iter().map(|call| call.0);
    let kept_in = ["fcntl", "ioctl", "prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam"];
    let more = ["sched_setscheduler", "setpriority", "setsockopt"];
    let names: Vec<&str> = allowed.chain(kept_in).chain(more).collect();
    let equal = |index: u32, value: u32| json!([{ "index": index, "value": value, "op": "SCMP_CMP_EQ" }]);
    let mut calls = vec![
        json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
        json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] }),
    ];
    for value in [0, u32::MAX] {
        calls.push(json!({ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": equal(0, value) }));
    }
    for family in FAMILIES {
        let names = ["socket", "socketpair"];
        calls.push(json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": equal(0, *family) }));
    }
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "syscalls": calls })
}

/// Every call number belongs to the last range that starts at or below it.
fn ranges(machine: Machine, tier: Tier) -> Vec<(u32, Rule)> {
    let among_others = |call: &Call| if tier == Tier::Landlock { rule_among_others(call.0) } else { None };
    let mut rules: Vec<(u32, Rule)> = ALLOWED
        .iter()
        .map(|call| (machine.number(call), among_others(call).unwrap_or(Rule::Allow)))
        .chain(CHECKED.iter().map(|call| (machine.number(call), among_others(call).unwrap_or_else(|| rule(call.0)))))
        .filter(|(number, _)| *number != NONE)
        .collect();
    rules.sort_by_key(|(number, _)| *number);

    let mut ranges = vec![(0, Rule::Refuse(libc::EPERM))];
    for (number, rule) in rules {
        push(&mut ranges, number, rule);
        push(&mut ranges, number + 1, Rule::Refuse(libc::EPERM));
    }
    push(&mut ranges, KNOWN_MAX + 1, Rule::Refuse(libc::ENOSYS));
    push(&mut ranges, X32, Rule::Refuse(libc::EPERM));
    ranges
}

/// Starts a range, or lets the one before go on where it says the same.
fn push(ranges: &mut Vec<(u32, Rule)>, start: u32, rule: Rule) {
    if ranges.last().is_some_and(|last| last.0 == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|last| last.1 != rule) {
        ranges.push((start, rule));
    }
}

fn tree(ranges: &[(u32, Rule)]) -> Vec<sock_filter> {
    if let [(_, rule)] = ranges {
        return leaf(*rule);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (start, low, high) = (high[0].0, tree(low), tree(high));
    let mut program = Vec::with_capacity(low.len() + high.len() + 2);
    match u8::try_from(low.len()) {
        Ok(skip) => program.push(instruction(JUMP_AT_LEAST, skip, 0, start)),
        // A conditional jump reaches 255 instructions far, a plain one any distance.
        Err(_) => {
            program.push(instruction(JUMP_AT_LEAST, 0, 1, start));
            program.push(instruction(JUMP, 0, 0, low.len() as u32));
        }
    }
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(rule: Rule) -> Vec<sock_filter> {
    let refuse = |errno: i32| instruction(RETURN, 0, 0, ERRNO | errno as u32);
    match rule {
        Rule::Allow => vec![instruction(RETURN, 0, 0, ALLOW)],
        Rule::Refuse(errno) => vec![refuse(errno)],
        Rule::Check(checks) => {
            let mut program = Vec::new();
            for Check(argument, test, errno) in checks {
                // The low half, on little-endian machines.
                program.push(instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * argument));
                program.extend(compare(*test));
                program.push(refuse(*errno));
            }
            program.push(instruction(RETURN, 0, 0, ALLOW));
            program
        }
        Rule::Ignore([(first, one), (second, other)]) => vec![
            instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * first),
            instruction(JUMP_EQUAL, 0, 3, one),
            instruction(LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * second),
            instruction(JUMP_EQUAL, 0, 1, other),
            refuse(0),
            instruction(RETURN, 0, 0, ALLOW),
        ],
    }
}

/// Comparisons that go on behind the next instruction if the test is passed, and at it otherwise.
fn compare(test: Test) -> Vec<sock_filter> {
    match test {
        Test::NoneOfBits(bits) => vec![instruction(JUMP_ANY_BIT, 0, 1, bits)],
        Test::OneOf(values) => {
            let count = values.len();
            let jump = |(at, value): (usize, &u32)| instruction(JUMP_EQUAL, (count - at) as u8, 0, *value);
            values.iter().enumerate().map(jump).collect()
        }
        Test::NoneOf(values) => {
            let last = values.len() - 1;
            let jump =
                |(at, value): (usize, &u32)| instruction(JUMP_EQUAL, (last - at) as u8, u8::from(at == last), *value);
            values.iter().enumerate().map(jump).collect()
        }
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Offsets in the kernel's `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests;
