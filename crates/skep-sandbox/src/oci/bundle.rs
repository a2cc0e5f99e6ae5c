//! The directory of one container: what goes in and comes out, and its configuration by the OCI runtime specification,
//! version 1.0, for runtimes that are given a root (`runc`, `crun`, `runsc`).

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::geteuid,
};
use serde_json::{Value, json};

use super::guard::Guarded;
use crate::{bare, bind::Bind, request::Limits, seccomp, users::CONTAINER_USER, wire::Job};

/// Where the files of a request lie before they are copied to `/tmp`.
const FILES: &str = "/code/files";
/// Longest explanation of the runtime that is passed on, in bytes.
const WHY_MAX: u64 = 4096;
/// Files in `/tmp`.
pub(super) const TMP_FILES_MAX: u32 = 16_384;
/// Processes that a user may have in all its containers together.
pub(super) const PROCESSES_OF_USER: u32 = 32_768;

/// The directory of one container. Removed with this value.
pub(super) struct Bundle {
    directory: PathBuf,
    /// The name of the container.
    pub(super) id: String,
}

impl Bundle {
    /// Makes it, with the files of `job`.
    pub(super) fn new(guarded: &Guarded, job: &Job) -> io::Result<Bundle> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = guarded.directory.join(number.to_string());
        fs::create_dir(&directory)?;
        let bundle = Bundle { directory, id: format!("{}-{number}", guarded.name()) };
        fs::create_dir(bundle.path("state"))?;
        for (name, mode) in [("code", 0o755), ("code/files", 0o755), ("outputs", 0o777)] {
            fs::create_dir(bundle.path(name))?;
            fs::set_permissions(bundle.path(name), fs::Permissions::from_mode(mode))?;
        }
        for (path, bytes) in &job.files {
            let inside = |top| path.strip_prefix(top).ok();
            let at = match (inside("/code"), inside("/outputs")) {
                (Some(rest), _) => Path::new("code").join(rest),
                (_, Some(rest)) => Path::new("outputs").join(rest),
                (None, None) => Path::new("code/files").join(inside("/tmp").unwrap_or(path)),
            };
            bundle.write(&at, bytes)?;
        }
        if geteuid().is_root() {
            chown(bundle.path("outputs"), Some(CONTAINER_USER), Some(CONTAINER_USER))?;
        }
        Ok(bundle)
    }

    /// Writes the configuration for a runtime: containers with this root.
    pub(super) fn configure(&self, root: &Path, binds: &[Bind], job: &Job) -> io::Result<()> {
        let config = self.config(&fs::canonicalize(root)?, binds, job);
        fs::write(self.path("config.json"), config.to_string())
    }

    /// Writes what an engine cannot be told on its command line.
    pub(super) fn write_filter(&self) -> io::Result<()> {
        fs::write(self.path("seccomp.json"), seccomp::for_runtimes().to_string())
    }

    /// The command line. Files that go to `/tmp` are copied there first.
    pub(super) fn argv(&self, job: &Job) -> Vec<OsString> {
        let copies = job.files.iter().any(|(path, _)| path.starts_with("/tmp"));
        let copy = format!("cp -R {FILES}/. /tmp && exec \"$@\"");
        let first = if copies { vec!["sh".into(), "-c".into(), copy.into(), "sh".into()] } else { Vec::new() };
        first.into_iter().chain(job.argv.iter().cloned()).collect()
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    fn write(&self, at: &Path, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.join(at);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::File::create_new(&path)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
    }

    pub(super) fn outputs(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(CWD, self.path("outputs"), flags, Mode::empty())?)
    }

    /// The runtime logs only what keeps it from running a container.
    pub(super) fn was_not_run(&self) -> bool {
        fs::metadata(self.path("log")).is_ok_and(|log| log.len() > 0)
    }

    pub(super) fn why(&self) -> String {
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
    fn config(&self, root: &Path, binds: &[Bind], job: &Job) -> Value {
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        let argv: Vec<String> = self.argv(job).iter().map(text).collect();
        let limits = &job.limits;
        let rlimit = |name: &str, value: u64| json!({ "type": name, "soft": value, "hard": value });
        let cpu = cpu_seconds(limits);
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
        // It is a device, which must be allowed to be one in order to be empty.
        let nothing = |at: &str| json!({ "destination": at, "type": "bind", "source": "/dev/null", "options": ["bind", "ro", "nosuid", "noexec"] });
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
            tmpfs("/dev", &["nosuid", "strictatime", "mode=755", "size=64k"]),
            // Owned by the command: a runtime may put the mode of the root's own /tmp on it.
            tmpfs(
                "/tmp",
                &["nosuid", "nodev", "mode=1777", &format!("nr_inodes={TMP_FILES_MAX}"), &size, &owner, &group],
            ),
            bind(&self.path("code"), "/code", "ro"),
            bind(&self.path("outputs"), "/outputs", "rw"),
        ];
        for one in binds {
            mounts.push(bind(&one.source.to_string_lossy(), &one.target.to_string_lossy(), "ro"));
            mounts.extend(one.hidden.iter().map(|place| {
                let at = one.target.join(place);
                match one.source.join(place).is_dir() {
                    true => tmpfs(&at.to_string_lossy(), &["ro", "nosuid", "nodev", "noexec", "mode=555", "size=4k"]),
                    false => nothing(&at.to_string_lossy()),
                }
            }));
        }
        mounts
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // What cannot be removed now may be with all the rest.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(fd) = openat(CWD, &self.directory, flags, Mode::empty())
            && bare::clear(fd.as_fd()).is_ok()
        {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// Time of the processor, in whole seconds.
pub(super) fn cpu_seconds(limits: &Limits) -> u64 {
    limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0)
}
