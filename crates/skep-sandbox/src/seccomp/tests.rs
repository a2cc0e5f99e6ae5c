//! A second opinion on the filter: the same policy compiled by `seccompiler`, and both programs run by a small
//! interpreter over every call number and the arguments that matter.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::*;

const MACHINES: [(Machine, TargetArch); 2] =
    [(Machine::X86_64, TargetArch::x86_64), (Machine::Aarch64, TargetArch::aarch64)];
const HIGH: u64 = 1 << 40;

/// Runs a program as the kernel would: number, audit word, then six arguments of 64 bits.
fn verdict(program: &[[u32; 4]], audit: u32, number: u32, arguments: [u64; 3]) -> u32 {
    let mut data = vec![number, audit, 0, 0];
    data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (*argument >> 32) as u32]));
    data.extend([0; 6]);
    let (mut accumulator, mut at) = (0, 0);
    loop {
        let [code, jt, jf, k] = program[at];
        at += 1;
        let test = |yes: bool| (if yes { jt } else { jf }) as usize;
        match code {
            LOAD => accumulator = data[k as usize / 4],
            JUMP => at += k as usize,
            JUMP_EQUAL => at += test(accumulator == k),
            JUMP_AT_LEAST => at += test(accumulator >= k),
            JUMP_ANY_BIT => at += test(accumulator & k != 0),
            0x25 => at += test(accumulator > k),
            0x54 => accumulator &= k,
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Each of the two filters there are for a machine.
const TIERS: [Tier; 2] = [Tier::Strict, Tier::Landlock];

fn ours(machine: Machine, tier: Tier) -> Vec<[u32; 4]> {
    let plain = |i: &sock_filter| [u32::from(i.code), u32::from(i.jt), u32::from(i.jf), i.k];
    program(machine, tier).iter().map(plain).collect()
}

fn plain(program: &BpfProgram) -> Vec<[u32; 4]> {
    program.iter().map(|i| [u32::from(i.code), u32::from(i.jt), u32::from(i.jf), i.k]).collect()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u32) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value)).unwrap()
}

/// The policy in `seccompiler`'s terms, written from what it says rather than from our rules: each entry lists the
/// conditions under one of which a call is allowed.
fn theirs(machine: Machine, arch: TargetArch, tier: Tier) -> Vec<[u32; 4]> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    let one_of = |argument, values: &[u32]| -> Vec<SeccompRule> {
        values.iter().map(|value| SeccompRule::new(vec![condition(argument, Eq, *value)]).unwrap()).collect()
    };
    let none_of = |argument, values: &[u32]| {
        vec![SeccompRule::new(values.iter().map(|value| condition(argument, Ne, *value)).collect()).unwrap()]
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let among_others = tier == Tier::Landlock;
    let changes_files =
        ["chmod", "chown", "utime", "setxattr", "removexattr", "futimesat", "inotify_init", "inotify_add"];
    let reaches_others = |name: &str| {
        ["bind", "connect", "listen"].contains(&name) || changes_files.iter().any(|part| name.contains(part))
    };
    for call in ALLOWED.iter().filter(|call| !among_others || !reaches_others(call.0)) {
        rules.insert(machine.number(call).into(), vec![]);
    }
    for call in CHECKED {
        let allowed = match call.0 {
            "clone" => vec![SeccompRule::new(vec![condition(0, MaskedEq(0x7E02_0000), 0)]).unwrap()],
            "clone3" => continue,
            "ioctl" if among_others => one_of(1, &[0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]),
            "ioctl" => none_of(1, &[0x5412, 0x541C]),
            "socket" if among_others => continue,
            "socketpair" if among_others => [1, 5]
                .iter()
                .flat_map(|kind| [0, 0x800, 0x8_0000, 0x8_0800].map(|flags| kind | flags))
                .map(|kind| SeccompRule::new(vec![condition(0, Eq, 1), condition(1, Eq, kind)]).unwrap())
                .collect(),
            "setpriority" if among_others => {
                vec![SeccompRule::new(vec![condition(0, Eq, 0), condition(1, Eq, 0)]).unwrap()]
            }
            name if among_others && name.starts_with("sched_set") => one_of(0, &[0]),
            "socket" | "socketpair" => one_of(0, &[1, 2, 10]),
            "personality" => one_of(0, &[0, 0xFFFF_FFFF]),
            "fcntl" => none_of(1, &[1024, 1031]),
            "prlimit64" => one_of(0, &[0]),
            "setpriority" => vec![SeccompRule::new(vec![condition(0, Eq, 0), condition(1, Ne, 1)]).unwrap()],
            name if name.starts_with("sched_set") => none_of(0, &[1]),
            "setsockopt" => [none_of(1, &[1]), none_of(2, &[7])].concat(),
            other => panic!("{other} has no second opinion"),
        };
        rules.insert(machine.number(call).into(), allowed);
    }
    rules.remove(&NONE.into());
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).unwrap();
    plain(&BpfProgram::try_from(filter).unwrap())
}

#[test]
fn seccompiler_would_decide_the_same() {
    let interesting = [
        0,
        1,
        2,
        3,
        5,
        10,
        16,
        40,
        0x801,
        0x8_0002,
        0x8_0805,
        1024,
        0x5401,
        0x5421,
        0x5450,
        1030,
        1031,
        0x5411,
        0x5412,
        0x541C,
        0x10_0000,
        0x1000_0000,
        0x2000_0000,
    ];
    let arguments: Vec<u64> = interesting
        .into_iter()
        .chain([u64::from(u32::MAX), u64::MAX])
        .flat_map(|value| [value, value | HIGH])
        .collect();
    for ((machine, arch), tier) in MACHINES.into_iter().flat_map(|machine| TIERS.map(|tier| (machine, tier))) {
        let (ours, theirs) = (ours(machine, tier), theirs(machine, arch, tier));
        let mut allowed = 0;
        for number in 0..=KNOWN_MAX {
            // Only calls that are checked look at arguments.
            let checked = CHECKED.iter().any(|call| machine.number(call) == number);
            let values = if checked { &arguments[..] } else { &arguments[..2] };
            for (first, second) in values.iter().flat_map(|first| values.iter().map(move |second| (first, second))) {
                let ours = verdict(&ours, machine.audit(), number, [*first, *second, 0]);
                let theirs = verdict(&theirs, machine.audit(), number, [*first, *second, 0]);
                assert_eq!(ours == ALLOW, theirs == ALLOW, "{machine:?} {number} ({first:#x}, {second:#x})");
                assert!(ours == ALLOW || ours & !0xFFFF == ERRNO, "{machine:?} {number}: {ours:#x}");
                allowed += usize::from(ours == ALLOW);
            }
        }
        assert!(allowed > 4 * 200, "{machine:?} allows next to nothing");
    }
}

#[test]
fn a_buffer_for_sending_stays_as_it_is() {
    for ((machine, _), tier) in MACHINES.into_iter().flat_map(|machine| TIERS.map(|tier| (machine, tier))) {
        let filter = ours(machine, tier);
        let number = machine.number(CHECKED.iter().find(|call| call.0 == "setsockopt").unwrap());
        let on = |level, option| verdict(&filter, machine.audit(), number, [3, level, option]);
        for high in [0, HIGH] {
            assert_eq!(on(1 | high, 7 | high), ERRNO);
        }
        for (level, option) in [(1, 2), (1, 8), (6, 7), (0, 7), (1, 0)] {
            assert_eq!(on(level, option), ALLOW, "{level} {option}");
        }
    }
}

#[test]
fn numbers_that_mean_something_else_are_refused() {
    for ((machine, _), tier) in MACHINES.into_iter().flat_map(|machine| TIERS.map(|tier| (machine, tier))) {
        let filter = ours(machine, tier);
        let on = |number| verdict(&filter, machine.audit(), number, [0; 3]);
        assert_eq!(on(KNOWN_MAX + 1), ERRNO | libc::ENOSYS as u32);
        assert_eq!(on(X32 - 1), ERRNO | libc::ENOSYS as u32);
        let read = machine.number(ALLOWED.iter().find(|call| call.0 == "read").unwrap());
        assert_eq!(on(read), ALLOW);
        assert_eq!(on(X32 | read), ERRNO | libc::EPERM as u32);
        assert_eq!(on(u32::MAX), ERRNO | libc::EPERM as u32);
        let clone3 = machine.number(CHECKED.iter().find(|call| call.0 == "clone3").unwrap());
        assert_eq!(on(clone3), ERRNO | libc::ENOSYS as u32);
        for other in [0x4000_0003, Machine::X86_64.audit() ^ 1, 0] {
            assert_eq!(verdict(&filter, other, read, [0; 3]), KILL_PROCESS, "32-bit calls");
        }
    }
}

#[test]
fn the_tree_is_shallow() {
    // Three loads and comparisons before it, and at most the longest check after it.
    for ((machine, _), tier) in MACHINES.into_iter().flat_map(|machine| TIERS.map(|tier| (machine, tier))) {
        let (ranges, length) = (ranges(machine, tier).len(), program(machine, tier).len());
        assert!(length < 400, "{length}");
        assert!(ranges < 256, "{ranges} ranges make a tree deeper than 8");
    }
}

/// The number of a call as `seccompiler` knows it. `None`: this machine has no such call.
fn number(name: &str, arch: TargetArch) -> Option<u32> {
    let json = format!(
        r#"{{"one": {{"mismatch_action": "allow", "match_action": {{"errno": 1}}, "filter": [{{"syscall": "{name}"}}]}}}}"#
    );
    let programs = seccompiler::compile_from_json(json.as_bytes(), arch).ok()?;
    let (machine, _) = MACHINES.into_iter().find(|(_, other)| *other == arch)?;
    let program = plain(programs.get("one")?);
    (0..=KNOWN_MAX).find(|number| verdict(&program, machine.audit(), *number, [0; 3]) != ALLOW)
}

#[test]
fn every_name_has_the_number_that_the_kernel_gave_it() {
    for call in ALLOWED.iter().chain(CHECKED) {
        for (machine, arch) in MACHINES {
            let ours = Some(machine.number(call)).filter(|number| *number != NONE);
            assert_eq!(ours, number(call.0, arch), "{} on {machine:?}", call.0);
        }
    }
}

#[test]
fn calls_that_reach_out_are_not_on_the_list() {
    for name in [
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "fsopen",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "init_module",
        "finit_module",
        "kexec_load",
        "open_by_handle_at",
        "name_to_handle_at",
        "kcmp",
        "pidfd_getfd",
        "memfd_create",
        "memfd_secret",
        "shmget",
        "mq_open",
        "io_setup",
        "fanotify_init",
        "quotactl",
        "acct",
        "syslog",
        "swapon",
        "reboot",
    ] {
        assert!(number(name, TargetArch::x86_64).is_some(), "{name} is no call");
        assert!(!ALLOWED.iter().chain(CHECKED).any(|call| call.0 == name), "{name}");
    }
}
