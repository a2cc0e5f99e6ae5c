//! Running requests in containers of an OCI runtime, where an operator prefers that or this machine can do no more.
//!
//! Off by default ([`Config::oci`](crate::Config::oci)), and weaker than the rest of this crate, so a request must accept
//! [`Tier::Oci`]. The runtime's command line is called as a person would (`runc run`), with a bundle that is made for one
//! request and removed after it: no daemon, no images, no state. Owns the bundle and the life of the container; what is
//! in the container's root is the operator's.
//!
//! Works by the OCI runtime specification, version 1.0: `runc`, `crun`, `runsc`.

use std::{
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{PermissionsExt as _, chown},
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::geteuid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    select,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Bind, End, Error, Net, Outcome, Protection, Tier, Usage, outputs, seccomp, users::CONTAINER_USER, wire::Job,
};

/// A container runtime and the root that its containers get.
#[derive(Clone, Debug)]
pub struct Oci {
    /// The runtime: its path, or its name on `PATH`, such as `runc`.
    pub runtime: PathBuf,
    /// Directory with the root of every container. It is shown read-only.
    pub root: PathBuf,
}

/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How long the runtime may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(5);
/// Where the files of a request lie before they are copied to `/tmp`.
const FILES: &str = "/code/files";
/// Bytes that are read from a pipe at once.
const CHUNK: usize = 64 << 10;
/// Longest explanation of the runtime that is passed on, in bytes.
const WHY_MAX: u64 = 4096;

impl Oci {
    /// Whether there is such a runtime and such a root.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let unavailable = |reason: String, cure: &str| Err(Error::Unavailable { reason, cure: cure.into() });
        if !self.root.is_dir() {
            return unavailable(
                format!("{} is not a directory with the root of a container", self.root.display()),
                "unpack an image there",
            );
        }
        let runtime = self.runtime.display();
        let version = Command::new(&self.runtime).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        match timeout(VERSION_WITHIN, version).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => unavailable(format!("{runtime} --version ends with {}", output.status), INSTALL),
            Ok(Err(error)) => unavailable(format!("{runtime} cannot be executed: {error}"), INSTALL),
            Err(_) => unavailable(format!("{runtime} does not answer"), INSTALL),
        }
    }

    /// Runs one request in a container of its own.
    pub(crate) async fn run(
        &self,
        binds: &[Bind],
        job: Job,
        stdin: Option<OwnedFd>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        if let Net::Allow(_) = job.net {
            return Err(Error::Invalid("hosts cannot be granted to a container".into()));
        }
        let started = Instant::now();
        let bundle = Bundle::new(&self.root, binds, &job).map_err(|source| setup("make the bundle", source))?;
        let mut container = Container { oci: self, bundle: &bundle, over: false };
        let mut child = container.start(stdin).map_err(|source| setup("execute the runtime", source))?;
        let mut output = Output { stdout: Vec::new(), stderr: Vec::new(), room: job.limits.output };
        let deadline = started + job.limits.wall;
        let forced =
            output.follow(&mut child, deadline, cancel).await.map_err(|source| setup("read the output", source))?;
        if forced.is_some() {
            container.kill().await;
        }
        let status = match timeout(GONE_WITHIN, child.wait()).await {
            Ok(status) => status.map_err(|source| setup("wait for the runtime", source))?,
            Err(_) => return Err(setup("see the container end", io::ErrorKind::TimedOut.into())),
        };
        container.remove().await;
        if forced.is_none() && bundle.was_not_run() {
            return Err(Error::Invalid(bundle.why()));
        }
        let (root, bytes_max) =
            (bundle.outputs().map_err(|source| setup("open the outputs", source))?, job.limits.outputs);
        let found = tokio::task::spawn_blocking(move || outputs::collect(&root, bytes_max)).await.unwrap_or_default();
        let truncated = output.room == 0 && forced == Some(End::OutputLimit);
        Ok(Outcome {
            end: forced.unwrap_or_else(|| end(status.code())),
            stdout: output.stdout,
            stderr: output.stderr,
            truncated,
            outputs: found.files,
            skipped: found.skipped,
            usage: Usage { wall: started.elapsed(), ..Usage::default() },
            start: None,
            connections: Vec::new(),
            tier: Tier::Oci,
            missing: missing(),
        })
    }
}

/// What is not enforced in a container.
pub(crate) fn missing() -> Vec<Protection> {
    use Protection::{Disk, Landlock, Lifetime, MemoryWatch, Quotas};
    let mut missing = vec![Landlock, Quotas, Disk, Lifetime, MemoryWatch];
    if !geteuid().is_root() {
        // Only root can be relied on to have a cgroup to give.
        missing.push(Protection::MemoryOfAll);
    }
    missing
}

const INSTALL: &str = "install it (apt-get install runc), or name another";

fn setup(step: &str, source: io::Error) -> Error {
    Error::Setup { step: step.into(), source }
}

/// A runtime passes the status of the command on, and 128 + N for signal N, which it does not tell from a command that
/// ends with that status.
fn end(code: Option<i32>) -> End {
    const SIGNALS: std::ops::RangeInclusive<i32> = 129..=192;
    match code {
        Some(code) if SIGNALS.contains(&code) => End::Signal(code - 128),
        Some(code) => End::Exit(code),
        None => End::Signal(libc::SIGKILL),
    }
}

/// A container, from its start until it is removed. Dropped before, it is removed in passing.
struct Container<'a> {
    oci: &'a Oci,
    bundle: &'a Bundle,
    over: bool,
}

impl Container<'_> {
    fn start(&self, stdin: Option<OwnedFd>) -> io::Result<Child> {
        let mut command = self.call(&["--log", &self.bundle.path("log"), "--log-format", "text", "run", "--bundle"]);
        command.arg(self.bundle.directory.path()).arg(&self.bundle.id);
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn()
    }

    fn call(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.oci.runtime);
        command.arg("--root").arg(self.bundle.path("state")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Kills it with everything in it. It may be just being made, or over.
    async fn kill(&self) {
        let _ = self.call(&["delete", "--force", &self.bundle.id]).status().await;
    }

    async fn remove(&mut self) {
        self.kill().await;
        self.over = true;
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Nobody waits any more, but the container must not go on, nor lose its bundle under way. This takes some
            // milliseconds of whoever dropped it; a thread could be lost with the process, and the container stay.
            let delete = self.call(&["delete", "--force", &self.bundle.id]).into_std().status();
            if let Err(error) = delete {
                tracing::warn!(%error, "a container could not be removed");
            }
        }
    }
}

/// What was printed so far, and how much more may be.
struct Output {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    room: u64,
}

impl Output {
    /// Reads until both ends are closed. Otherwise: why the container is to be ended.
    async fn follow(
        &mut self,
        child: &mut Child,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> io::Result<Option<End>> {
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (mut out_open, mut err_open) = (true, true);
        let (mut out, mut err) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        while out_open || err_open {
            let within = select! {
                biased;
                read = next(&mut stdout, &mut out), if out_open => {
                    out_open = read? > 0;
                    keep(&mut self.stdout, &out, &mut self.room)
                }
                read = next(&mut stderr, &mut err), if err_open => {
                    err_open = read? > 0;
                    keep(&mut self.stderr, &err, &mut self.room)
                }
                () = cancel.cancelled() => return Ok(Some(End::Cancelled)),
                () = sleep_until(deadline.into()) => return Ok(Some(End::Timeout)),
            };
            if !within {
                return Ok(Some(End::OutputLimit));
            }
        }
        // Closed outputs are not the end.
        select! {
            biased;
            _ = child.wait() => Ok(None),
            () = cancel.cancelled() => Ok(Some(End::Cancelled)),
            () = sleep_until(deadline.into()) => Ok(Some(End::Timeout)),
        }
    }
}

async fn next(from: &mut (impl AsyncRead + Unpin), chunk: &mut Vec<u8>) -> io::Result<usize> {
    chunk.clear();
    from.read_buf(chunk).await
}

/// Keeps as much as there is room for. `false`: there was more.
fn keep(kept: &mut Vec<u8>, chunk: &[u8], room: &mut u64) -> bool {
    let length = chunk.len().min(usize::try_from(*room).unwrap_or(usize::MAX));
    kept.extend_from_slice(&chunk[..length]);
    *room -= length as u64;
    length == chunk.len()
}

/// The directory of one container: its configuration, and what goes in and comes out. Removed with this value.
struct Bundle {
    directory: TempDir,
    id: String,
}

impl Bundle {
    fn new(root: &Path, binds: &[Bind], job: &Job) -> io::Result<Bundle> {
        let directory = tempfile::Builder::new().prefix("skep-").tempdir()?;
        let name = directory.path().file_name().unwrap_or_default();
        // The runtime's names are plain.
        let id = String::from_utf8_lossy(name.as_bytes()).replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let bundle = Bundle { directory, id };
        fs::create_dir(bundle.path("state"))?;
        for (name, mode) in [("code", 0o755), ("code/files", 0o755), ("outputs", 0o777)] {
            fs::create_dir(bundle.path(name))?;
            fs::set_permissions(bundle.path(name), fs::Permissions::from_mode(mode))?;
        }
        let mut copies = false;
        for (path, bytes) in &job.files {
            let inside = |top| path.strip_prefix(top).ok();
            let at = match (inside("/code"), inside("/outputs")) {
                (Some(rest), _) => Path::new("code").join(rest),
                (_, Some(rest)) => Path::new("outputs").join(rest),
                (None, None) => {
                    copies = true;
                    Path::new("code/files").join(inside("/tmp").unwrap_or(path))
                }
            };
            bundle.write(&at, bytes)?;
        }
        let user = if geteuid().is_root() { CONTAINER_USER } else { geteuid().as_raw() };
        if geteuid().is_root() {
            chown(bundle.path("outputs"), Some(user), Some(user))?;
        }
        let config = bundle.config(&fs::canonicalize(root)?, binds, job, copies);
        fs::write(bundle.path("config.json"), config.to_string())?;
        Ok(bundle)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    fn write(&self, at: &Path, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.path().join(at);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::File::create_new(&path)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
    }

    fn outputs(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(CWD, self.path("outputs"), flags, Mode::empty())?)
    }

    /// The runtime logs only what keeps it from running a container.
    fn was_not_run(&self) -> bool {
        fs::metadata(self.path("log")).is_ok_and(|log| log.len() > 0)
    }

    fn why(&self) -> String {
        let mut why = String::new();
        let log = fs::File::open(self.path("log")).and_then(|mut log| {
            log.rewind()?;
            log.take(WHY_MAX).read_to_string(&mut why)
        });
        match log {
            Ok(_) => format!("the container cannot be run: {}", why.trim_end()),
            Err(error) => format!("the container cannot be run, and the runtime's log not read: {error}"),
        }
    }

    /// The configuration, by the OCI runtime specification.
    fn config(&self, root: &Path, binds: &[Bind], job: &Job, copies: bool) -> Value {
        let text = |word: &std::ffi::OsString| word.to_string_lossy().into_owned();
        let mut argv: Vec<String> = job.argv.iter().map(text).collect();
        if copies {
            let copy = format!("cp -R {FILES}/. /tmp && exec \"$@\"");
            argv = ["sh".into(), "-c".into(), copy, "sh".into()].into_iter().chain(argv).collect();
        }
        let limits = &job.limits;
        let rlimit = |name: &str, value: u64| json!({ "type": name, "soft": value, "hard": value });
        let cpu = limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0);
        let mut rlimits = vec![
            rlimit("RLIMIT_CPU", cpu),
            rlimit("RLIMIT_FSIZE", limits.tmp.max(limits.outputs)),
            rlimit("RLIMIT_NOFILE", limits.open_files.into()),
            rlimit("RLIMIT_CORE", 0),
            rlimit("RLIMIT_MSGQUEUE", 0),
        ];
        if !geteuid().is_root() {
            // Counted in the container's own user namespace; root's have a cgroup for it.
            rlimits.push(rlimit("RLIMIT_NPROC", u64::from(limits.processes)));
        }
        rlimits.extend(limits.address_space.map(|space| rlimit("RLIMIT_AS", space)));
        let is_root = geteuid().is_root();
        // An ordinary user has no id but his own to give, and runtimes want it to be root's inside.
        let user = if is_root { CONTAINER_USER } else { 0 };
        let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].into_iter().chain((!is_root).then_some("user"));
        let mut linux = json!({
            "namespaces": namespaces.map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/acpi", "/proc/scsi"],
            "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"],
            "seccomp": seccomp::for_runtimes(),
        });
        if is_root {
            let memory = i64::try_from(limits.memory).unwrap_or(i64::MAX);
            linux["resources"] =
                json!({ "memory": { "limit": memory, "swap": memory }, "pids": { "limit": limits.processes } });
        } else {
            linux["uidMappings"] = map(geteuid().as_raw());
            linux["gidMappings"] = map(rustix::process::getegid().as_raw());
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": user, "gid": user },
                "args": argv,
                "env": job.env.iter().map(text).collect::<Vec<_>>(),
                "cwd": job.cwd.to_string_lossy(),
                "capabilities": {},
                "rlimits": rlimits,
                "noNewPrivileges": true,
                "oomScoreAdj": 1000,
            },
            "root": { "path": root.to_string_lossy(), "readonly": true },
            "hostname": "sandbox",
            "mounts": self.mounts(binds, job, user),
            "linux": linux,
        })
    }

    fn mounts(&self, binds: &[Bind], job: &Job, user: u32) -> Vec<Value> {
        let tmpfs = |at: &str, options: &[&str]| json!({ "destination": at, "type": "tmpfs", "source": "tmpfs", "options": options });
        let size = format!("size={}", job.limits.tmp.max(1));
        let (owner, group) = (format!("uid={user}"), format!("gid={user}"));
        let bind = |source: &str, at: &str, access: &str| {
            let options = ["rbind", access, "nosuid", "nodev"];
            json!({ "destination": at, "type": "bind", "source": source, "options": options })
        };
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
            tmpfs("/dev", &["nosuid", "strictatime", "mode=755", "size=64k"]),
            // Owned by the command: a runtime may put the mode of the root's own /tmp on it.
            tmpfs("/tmp", &["nosuid", "nodev", "mode=1777", "nr_inodes=16384", &size, &owner, &group]),
            bind(&self.path("code"), "/code", "ro"),
            bind(&self.path("outputs"), "/outputs", "rw"),
        ];
        mounts.extend(binds.iter().map(|one| bind(&one.source.to_string_lossy(), &one.target.to_string_lossy(), "ro")));
        mounts
    }
}
