//! What to do about what this machine cannot: the words for people, each with the exact cure.

use std::{fs, io};

use crate::{
    cgroup,
    error::Error,
    fault::Fault,
    landlock,
    tier::{Protection, Tier},
};

/// Why the isolation is not stronger.
#[derive(Clone, Debug)]
pub(crate) struct Weaker {
    pub(crate) reason: String,
    pub(crate) cure: String,
}

impl Weaker {
    pub(crate) fn because(refused: &Error) -> Weaker {
        match refused {
            Error::Unavailable { reason, cure } => Weaker { reason: reason.clone(), cure: cure.clone() },
            Error::Setup { step, source } => {
                let cure = "find out what refuses that here".to_owned();
                Weaker { reason: format!("cannot {step}: {source}"), cure }
            }
            other => Weaker { reason: other.to_string(), cure: String::new() },
        }
    }
}

/// What to do about a protection that is missing at this tier.
pub(crate) fn advice(missing: Protection, tier: Tier) -> String {
    let advice = advice_on(missing, tier);
    if missing == Protection::MemoryOfAll { format!("{advice}: {}", cgroup::cure()) } else { advice.to_owned() }
}

fn advice_on(missing: Protection, tier: Tier) -> &'static str {
    match missing {
        Protection::Quotas if tier == Tier::Strict => "this kernel has no quotas for inotify; use Linux 5.13 or newer",
        Protection::Landlock if tier != Tier::Oci => {
            "Landlock of this kernel does not keep signals and abstract sockets inside; the namespaces do. Linux 6.12 has both"
        }
        Protection::Quotas if tier == Tier::Landlock => {
            "a request can use up quotas of the server's user, such as those for pipes"
        }
        Protection::Proc if tier == Tier::Landlock => "there is no /proc inside",
        Protection::Hiding => "a request can find out which processes and files there are, though not what is in them",
        Protection::Processes => {
            "processes of the server's user are counted with those of a request; run the server as root or as a user of \
             its own, or give it a cgroup"
        }
        Protection::Disk if tier == Tier::Landlock => {
            "only the size of single files is limited; use quotas of the file system, or a TMPDIR that is small"
        }
        Protection::KernelMemory if tier == Tier::Landlock => {
            "what the kernel holds for a request (buffers of sockets, mappings, locks of files) is not limited, only its \
             page tables; a cgroup v2 limits all"
        }
        Protection::KernelMemory if tier == Tier::Strict => {
            "of what the kernel holds for a request, page tables and buffers of sockets are watched; the rest (mappings, \
             locks of files) is not; a cgroup v2 limits all"
        }
        Protection::KernelMemory => "what the kernel holds for a request is not limited; a cgroup v2 limits it",
        Protection::MemoryOfAll => "the memory of all processes of a request together is watched, not capped",
        Protection::MemoryWatch => "without /proc inside, the memory of a request is not watched; see below",
        Protection::Quotas => "without /proc inside, a request can use up the inotify quota of the server's user",
        Protection::Landlock => "containers have no second wall behind the namespaces",
        Protection::Lifetime => "what runs goes on if the server is killed (`kill -9`)",
        Protection::Disk => "in a container only the size of single files in /outputs is limited while a command runs",
        Protection::Proc => {
            "parts of /proc are covered here, as containers do, so none can be mounted inside; run the container with \
             an uncovered /proc (docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked)"
        }
    }
}

/// Refuses a request that wants more than there is.
pub(crate) fn demand(there_is: Tier, wanted: Tier, weaker: Option<&Weaker>) -> Result<(), Error> {
    if there_is >= wanted {
        return Ok(());
    }
    let (because, cure) = match weaker {
        Some(Weaker { reason, cure }) => (format!(" ({reason})"), cure.as_str()),
        None if there_is == Tier::StrictWithoutProc => (String::new(), advice_on(Protection::Proc, there_is)),
        None => (String::new(), "the operator has chosen it"),
    };
    let cure = format!("{cure}; or accept the tier {there_is:?} in the request");
    Err(Error::Unavailable { reason: format!("the tier here is {there_is:?}, not {wanted:?}{because}"), cure })
}

/// A fault of the set-up, as an error that says what to do.
pub(crate) fn explain(fault: Fault) -> Error {
    let source = io::Error::from_raw_os_error(fault.errno);
    match cure(&fault, &Machine::here()) {
        Some(cure) => Error::Unavailable { reason: format!("cannot {}: {source}", fault.step), cure },
        None => Error::Setup { step: fault.step, source },
    }
}

/// Settings of this machine that decide whether an ordinary user may isolate.
#[derive(Debug, Default)]
struct Machine {
    /// `kernel.apparmor_restrict_unprivileged_userns` is on.
    apparmor_restricts: bool,
    /// `kernel.unprivileged_userns_clone` is off.
    clone_forbidden: bool,
    /// Path of this program, for the profile.
    program: String,
}

impl Machine {
    fn here() -> Machine {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        Machine {
            apparmor_restricts: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            clone_forbidden: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            program: fs::read_link("/proc/self/exe").map(|path| path.display().to_string()).unwrap_or_default(),
        }
    }
}

/// What an administrator does about it. `None`: this is not a setting.
fn cure(fault: &Fault, machine: &Machine) -> Option<String> {
    let step = fault.step.as_str();
    let refused = matches!(fault.errno, libc::EPERM | libc::EACCES);
    if step == "find Landlock" {
        let how = match fault.errno {
            libc::EOPNOTSUPP => "it is built in but switched off: add `landlock` to the `lsm=` boot parameter",
            _ => "this kernel has none: use Linux 5.14 or newer built with CONFIG_SECURITY_LANDLOCK",
        };
        return Some(how.to_owned());
    }
    if step == landlock::KEEP_SIGNALS {
        return Some("use Linux 6.12 or newer, whose Landlock keeps signals inside".into());
    }
    if step == "find a user other than root" {
        return Some("start it as an ordinary user, or give this container more user ids".into());
    }
    if step == "make namespaces" && fault.errno == libc::ENOSPC {
        return Some("as root: sysctl -w user.max_user_namespaces=65536".into());
    }
    if !refused {
        return None;
    }
    if machine.apparmor_restricts {
        let program = &machine.program;
        return Some(format!(
            "AppArmor keeps programs without a profile from isolating; as root: \
             printf 'abi <abi/4.0>,\\nprofile skep {program} flags=(unconfined) {{ userns, }}\\n' > /etc/apparmor.d/skep \
             && apparmor_parser -r /etc/apparmor.d/skep"
        ));
    }
    if machine.clone_forbidden {
        return Some("as root: sysctl -w kernel.unprivileged_userns_clone=1".into());
    }
    if step == "make namespaces" || step.starts_with("take ") {
        return Some(
            "something refuses user namespaces, most likely a container's system call filter (docker: --security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined, or a profile that allows clone, mount and \
             pivot_root)"
                .into(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(step: &str, errno: i32) -> Fault {
        Fault { step: step.into(), errno }
    }

    #[test]
    fn each_known_refusal_comes_with_its_cure() {
        let plain = Machine { program: "/usr/bin/skep".into(), ..Machine::default() };
        let cured = |fault: Fault, machine: &Machine| cure(&fault, machine).unwrap();
        assert!(cured(fault("make namespaces", libc::ENOSPC), &plain).contains("user.max_user_namespaces"));
        assert!(cured(fault("make namespaces", libc::EPERM), &plain).contains("seccomp"));
        let forbidden = Machine { clone_forbidden: true, ..Machine::default() };
        assert!(cured(fault("make namespaces", libc::EPERM), &forbidden).contains("unprivileged_userns_clone"));
        let ubuntu = Machine { apparmor_restricts: true, program: "/usr/bin/skep".into(), ..Machine::default() };
        let profile = cured(fault("map users", libc::EPERM), &ubuntu);
        assert!(profile.contains("profile skep /usr/bin/skep flags=(unconfined)"), "{profile}");
        assert!(cured(fault("find Landlock", libc::EOPNOTSUPP), &plain).contains("lsm="));
        assert!(cure(&fault("mount /tmp", libc::ENOMEM), &plain).is_none());
    }

    #[test]
    fn a_request_that_wants_more_than_there_is_is_refused() {
        assert!(demand(Tier::Strict, Tier::StrictWithoutProc, None).is_ok());
        let error = demand(Tier::StrictWithoutProc, Tier::Strict, None).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let weaker = Weaker { reason: "no namespaces".into(), cure: "allow them".into() };
        let error = demand(Tier::Landlock, Tier::StrictWithoutProc, Some(&weaker)).unwrap_err().to_string();
        assert!(error.contains("no namespaces") && error.contains("allow them") && error.contains("accept"), "{error}");
    }
}
