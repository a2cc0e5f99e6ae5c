//! Containers from images, by the command line of an engine: `podman run`, `docker run`.
//!
//! Owns the words of that command line. They say what a bundle's configuration says to a runtime (`bundle.rs`), as far as
//! engines have words for it.

use std::{ffi::OsString, path::Path};

use rustix::process::{getegid, geteuid};

use super::{
    Kind, LABEL,
    bundle::{self, Bundle},
};
use crate::{bind::Bind, users::CONTAINER_USER, wire::Job};

/// The exit codes of engines that could not run a container, or not the program in it.
const NOT_RUN: std::ops::RangeInclusive<i32> = 125..=127;
/// How the engines begin to say why.
const SAYS: [&str; 2] = ["docker: ", "Error: "];

/// The command line after the engine's name.
pub(super) fn words(kind: Kind, image: &str, label: &str, bundle: &Bundle, binds: &[Bind], job: &Job) -> Vec<OsString> {
    let limits = &job.limits;
    let user = match kind {
        _ if geteuid().is_root() => format!("{CONTAINER_USER}:{CONTAINER_USER}"),
        // Root of a namespace in which it is the caller.
        Kind::Podman => "0:0".into(),
        // The daemon is root; what comes out must be the caller's to read and to remove.
        _ => format!("{}:{}", geteuid().as_raw(), getegid().as_raw()),
    };
    let cpu = bundle::cpu_seconds(limits);
    let file = limits.tmp.max(limits.outputs);
    let mut words: Vec<OsString> = [
        "run",
        "--rm",
        "--pull=never",
        "--network=none",
        "--ipc=private",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--hostname=sandbox",
        "--log-driver=none",
        "--oom-score-adj=1000",
        "--shm-size=1m",
    ]
    .map(OsString::from)
    .to_vec();
    let mut push = |name: &str, value: String| words.push(format!("--{name}={value}").into());
    push("name", bundle.id.clone());
    push("label", format!("{LABEL}={label}"));
    push("security-opt", format!("seccomp={}", bundle.path("seccomp.json")));
    push("user", user);
    push("workdir", job.cwd.to_string_lossy().into_owned());
    push("memory", limits.memory.to_string());
    // With swap: as much again would be allowed otherwise.
    push("memory-swap", limits.memory.to_string());
    push("pids-limit", limits.processes.to_string());
    push("ulimit", format!("cpu={cpu}:{cpu}"));
    push("ulimit", format!("fsize={file}:{file}"));
    push("ulimit", format!("nofile={0}:{0}", limits.open_files));
    // Counted by the user, who has other containers; `pids-limit` is this one's.
    push("ulimit", format!("nproc={0}:{0}", bundle::PROCESSES_OF_USER));
    push("ulimit", "core=0:0".into());
    // Podman has no words for a number of files.
    let files =
        if kind == Kind::Podman { "notmpcopyup".into() } else { format!("nr_inodes={}", bundle::TMP_FILES_MAX) };
    push("tmpfs", format!("/tmp:rw,nosuid,nodev,exec,mode=1777,size={},{files}", limits.tmp.max(1)));
    let mut mount = |source: &str, at: &str, access: &str| {
        words.push(format!("--mount=type=bind,src={source},dst={at}{access}").into());
    };
    mount(&bundle.path("code"), "/code", ",readonly");
    mount(&bundle.path("outputs"), "/outputs", "");
    for Bind { source, target, hidden } in binds {
        mount(&source.to_string_lossy(), &target.to_string_lossy(), ",readonly");
        for place in hidden.iter().filter(|place| !source.join(place).is_dir()) {
            mount("/dev/null", &target.join(place).to_string_lossy(), ",readonly");
        }
    }
    // Podman would copy what the image has there.
    let as_is = if kind == Kind::Podman { ",notmpcopyup" } else { "" };
    for Bind { source, target, hidden } in binds {
        for place in hidden.iter().filter(|place| source.join(place).is_dir()) {
            let at = target.join(place);
            let options = format!("tmpfs-mode=0555,tmpfs-size=4096,readonly{as_is}");
            words.push(format!("--mount=type=tmpfs,dst={},{options}", at.display()).into());
        }
    }
    if kind == Kind::Podman {
        // Else there are writable directories that nothing limits.
        words.push("--read-only-tmpfs=false".into());
    }
    words.push("--interactive".into());
    for entry in &job.env {
        words.extend(["--env".into(), entry.clone()]);
    }
    let mut argv = bundle.argv(job).into_iter();
    words.extend(["--entrypoint".into(), argv.next().unwrap_or_default()]);
    words.push(image.into());
    words.extend(argv);
    words
}

/// Why nothing of the command ran, if that is what the engine says. A command that says the same as the engine would is
/// taken at its word.
pub(super) fn why_not_run(code: Option<i32>, stderr: &[u8]) -> Option<String> {
    let code = code.filter(|code| NOT_RUN.contains(code))?;
    let text = String::from_utf8_lossy(stderr);
    let why = text.lines().find(|line| SAYS.iter().any(|says| line.starts_with(says)))?;
    (code == 125 || why.contains("OCI") || why.contains("exec")).then(|| format!("the container cannot be run: {why}"))
}

/// Whether a path can be told to an engine, in words that are separated by commas.
pub(super) fn can_name(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains([',', '"', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_engine_says_of_itself_means_that_nothing_ran() {
        let said = |code, stderr: &str| why_not_run(Some(code), stderr.as_bytes());
        let podman = "Error: runc: runc create failed: exec: \"x\": executable file not found: OCI runtime attempted";
        assert!(said(127, podman).unwrap().contains("\"x\""));
        let docker = "docker: Error response from daemon: No such image: a:latest.\nSee 'docker run --help'.\n";
        assert!(said(125, docker).unwrap().contains("No such image"));
        assert!(said(127, "sh: 1: x: not found\n").is_none());
        assert!(said(126, "Error: no\n").is_none());
        assert!(said(1, podman).is_none());
        assert!(why_not_run(None, podman.as_bytes()).is_none());
    }
}
