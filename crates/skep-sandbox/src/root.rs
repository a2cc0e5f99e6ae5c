//! The file system that every sandbox starts from: built once, by the zygote, in its own mount namespace.
//!
//! Built on an empty tmpfs of our own, with the host's directories moved onto it as detached trees, so that no path of
//! the host is walked twice and no mount point is ever made inside a directory that somebody else can write to.
//! Sandboxes get a copy of this namespace; what is private to one (`/proc`, `/tmp`, `/outputs`, `/code`) they mount
//! over it themselves (`slot.rs`).

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root},
};

use crate::{
    bind::Bind,
    fault::{At, Fault},
    sys,
    tier::Tier,
};

/// Directories of the host with its programs. Those that are links there (merged `/usr`) become the same links.
pub(crate) const PROGRAMS: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];
/// Devices that are harmless.
pub(crate) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Configuration that programs need to start: where libraries are, which `awk` is meant.
pub(crate) const ETC_DIRECTORIES: [&str; 1] = ["/etc/alternatives"];
/// Files of `/etc` that are copied if they are no larger than [`COPY_MAX`].
pub(crate) const ETC_FILES: [&str; 4] = ["/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", CERTIFICATES];
/// Whom the host trusts to name servers.
pub(crate) const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Largest file that is copied, in bytes.
const COPY_MAX: u64 = 1 << 20;
/// Size of the root itself: a few links, the copies above and mount points.
const ROOT_SIZE: &str = "4m";
/// Files in the root itself.
const ROOT_INODES: &str = "1024";

/// Directories that a sandbox mounts itself.
pub(crate) const OWN: [&str; 4] = ["/proc", "/tmp", "/outputs", "/code"];

/// Those in which a command may write.
pub(crate) const WRITABLE: [&str; 3] = ["/tmp", "/outputs", "/code"];

/// Paths inside that binds must stay clear of.
pub(crate) fn reserved() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().chain(OWN).chain(["/dev", "/etc"])
}

/// A directory or file of the host, detached from its namespace and already read-only, and where it is to go.
pub(crate) struct Tree {
    mount: OwnedFd,
    target: PathBuf,
    directory: bool,
    /// Only root may look into it.
    closed: bool,
}

/// Links of the host that the root gets, too.
struct Link {
    target: PathBuf,
    at: PathBuf,
}

/// A place of a bind that is not to be seen.
struct Hidden {
    bind: PathBuf,
    place: PathBuf,
}

/// Everything that is taken from the host.
pub(crate) struct Parts {
    trees: Vec<Tree>,
    links: Vec<Link>,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// What something empty is put over, by its path inside.
    hidden: Vec<Hidden>,
    /// The host's procfs, for the tier that cannot mount its own.
    proc: OwnedFd,
}

impl Parts {
    /// Takes what the root will be made of. Whoever calls this must be allowed to reach the paths and to mount.
    pub(crate) fn take(binds: &[Bind]) -> Result<Parts, Fault> {
        let proc = openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let proc = proc.at("open /proc")?;
        let hidden = binds.iter().flat_map(|bind| {
            bind.hidden.iter().map(|place| Hidden { bind: bind.target.clone(), place: bind.target.join(place) })
        });
        let hidden = hidden.collect();
        let mut parts = Parts { trees: Vec::new(), links: Vec::new(), files: Vec::new(), hidden, proc };
        for path in PROGRAMS.into_iter().chain(ETC_DIRECTORIES) {
            let path = Path::new(path);
            match fs::symlink_metadata(path) {
                Ok(data) if data.is_symlink() => {
                    let target = fs::read_link(path).at("read a link of the host")?;
                    parts.links.push(Link { target, at: path.to_owned() });
                }
                Ok(_) => parts.trees.push(Tree::take(path, path, Kind::Programs)?),
                Err(_) => (),
            }
        }
        for path in DEVICES {
            parts.trees.push(Tree::take(Path::new(path), Path::new(path), Kind::Device)?);
        }
        for bind in binds {
            parts.trees.push(Tree::take(&bind.source, &bind.target, Kind::Bind)?);
        }
        for path in ETC_FILES {
            if fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() <= COPY_MAX) {
                parts.files.push((path.into(), fs::read(path).at(path)?));
            }
        }
        Ok(parts)
    }
}

impl Parts {
    /// Shows directories that only root may look into as those of user 0 of a user namespace, with all that is root's in
    /// them. Whether there were any, and the file system can do so.
    pub(crate) fn open_to(&self, users: &OwnedFd) -> bool {
        let closed = self.trees.iter().filter(|tree| tree.closed);
        closed.map(|tree| sys::map_mount(tree.mount.as_fd(), users.as_fd())).filter(Result::is_ok).count() > 0
    }
}

/// What others must be allowed to do with a directory in order to list it and open its files.
const FOR_OTHERS: u32 = 0o005;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Programs,
    Device,
    Bind,
}

impl Tree {
    fn take(source: &Path, target: &Path, kind: Kind) -> Result<Tree, Fault> {
        let step = || format!("take {} from the host", source.display());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let mount = open_tree(CWD, source, flags).at(&step())?;
        let attributes = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | if kind == Kind::Device { libc::MOUNT_ATTR_NOEXEC } else { libc::MOUNT_ATTR_NODEV };
        sys::restrict_mount(mount.as_fd(), true, attributes).at(&step())?;
        let stat = rustix::fs::fstat(&mount).at(&step())?;
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        let closed = kind == Kind::Bind && stat.st_uid == 0 && stat.st_mode & FOR_OTHERS != FOR_OTHERS;
        if kind == Kind::Bind && !directory {
            return Err(Errno::NOTDIR).at(&step());
        }
        Ok(Tree { mount, target: target.to_owned(), directory, closed })
    }
}

/// The finished root, in which the calling process now lives.
pub(crate) struct Root {
    /// What it allows for.
    pub(crate) tier: Tier,
    /// A procfs in which the caller and its children find themselves as `self`.
    pub(crate) proc: OwnedFd,
}

/// Builds the root from `parts` and moves the calling process into it, for good.
///
/// The caller is alone in new user, mount and pid namespaces, with all capabilities there.
pub(crate) fn build(parts: Parts) -> Result<Root, Fault> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).at("make mounts private")?;
    let root = tmpfs(&[("size", ROOT_SIZE), ("nr_inodes", ROOT_INODES), ("mode", "755")], MountAttrFlags::empty())
        .at("make the root")?;
    // It has to be somewhere before others can be mounted in it; what it covers has been taken already.
    attach(&root, "/usr").at("attach the root")?;

    for directory in OWN.into_iter().chain(["/dev", "/etc"]) {
        make_directory(&root, Path::new(directory))?;
    }
    for tree in &parts.trees {
        make_mount_point(&root, tree)?;
        let (empty, flags) = ("", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        move_mount(&tree.mount, empty, &root, inside(&tree.target), flags)
            .at(&format!("mount {}", tree.target.display()))?;
    }
    let mut covered: Vec<&Path> = Vec::new();
    for hidden in &parts.hidden {
        if !covered.iter().any(|above| hidden.place.starts_with(above)) {
            covered.push(cover(&root, hidden)?);
        }
    }
    for Link { target, at } in &parts.links {
        symlinkat(target, &root, inside(at)).at(&format!("link {}", at.display()))?;
    }
    for (target, at) in DEVICE_LINKS {
        symlinkat(target, &root, at).at("link devices")?;
    }
    for (path, bytes) in &parts.files {
        make_directory(&root, path.parent().unwrap_or(path))?;
        write(&root, path, bytes)?;
    }
    for (path, text) in ETC {
        write(&root, Path::new(path), text.as_bytes())?;
    }

    // A sandbox may mount its own procfs only where a complete one can be seen already.
    let proc = match procfs(&[]) {
        Ok(proc) => {
            move_mount(&proc, "", &root, "proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at("mount /proc")?;
            Some(proc)
        }
        Err(Errno::PERM) => None,
        other => Some(other.at("mount /proc")?),
    };
    let tier = if proc.is_some() { Tier::Strict } else { Tier::StrictWithoutProc };

    sys::restrict_mount(root.as_fd(), false, libc::MOUNT_ATTR_RDONLY).at("make the root read-only")?;
    fchdir(&root).at("enter the root")?;
    pivot_root(".", ".").at("change the root")?;
    unmount(".", UnmountFlags::DETACH).at("let the host's files go")?;
    chdir("/").at("enter the root")?;
    Ok(Root { tier, proc: proc.unwrap_or(parts.proc) })
}

/// Without `/proc` these lead nowhere, which is what they should do then.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    // Named semaphores and shared memory of the C library; they count as files of /tmp.
    ("/tmp", "dev/shm"),
];

const ETC: [(&str, &str); 4] = [
    ("/etc/passwd", "sandbox:x:1000:1000:sandbox:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "sandbox:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// A new tmpfs that is not attached anywhere yet.
pub(crate) fn tmpfs(options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    file_system("tmpfs", options, attributes)
}

/// A new procfs of the caller's pid namespace that is not attached anywhere yet.
pub(crate) fn procfs(options: &[(&str, &str)]) -> Result<OwnedFd, Errno> {
    file_system("proc", options, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

fn file_system(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a new file system at an absolute path.
pub(crate) fn attach(mount: &OwnedFd, at: &str) -> Result<(), Errno> {
    move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// An absolute path, relative to the root that is being built.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Puts something empty over a place. Returns what was covered.
///
/// Where this process does not get, no command does, either, as long as the permissions stay; then what is in the way is
/// covered as a whole. Any other trouble is one: nothing may be seen because something was moved meanwhile.
fn cover<'a>(root: &OwnedFd, Hidden { bind, place }: &'a Hidden) -> Result<&'a Path, Fault> {
    let step = format!("hide {}", place.display());
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(root, inside(path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let mut reached = place.as_path();
    let over = loop {
        match open(reached) {
            Err(Errno::ACCESS) if reached != bind => reached = reached.parent().unwrap_or(bind),
            other => break other.at(&step)?,
        }
    };
    let stat = rustix::fs::fstat(&over).at(&step)?;
    let cover = if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        tmpfs(&[("size", "4k"), ("nr_inodes", "2"), ("mode", "555")], MountAttrFlags::MOUNT_ATTR_RDONLY)
    } else {
        open_tree(root, "dev/null", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&cover.at(&step)?, "", &over, "", flags).at(&step)?;
    Ok(reached)
}

fn make_mount_point(root: &OwnedFd, tree: &Tree) -> Result<(), Fault> {
    if tree.directory {
        return make_directory(root, &tree.target);
    }
    write(root, &tree.target, b"")
}

fn make_directory(root: &OwnedFd, path: &Path) -> Result<(), Fault> {
    let mut so_far = PathBuf::new();
    for part in inside(path) {
        so_far.push(part);
        match mkdirat(root, &so_far, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(error) => return Err(error).at(&format!("make {}", path.display())),
        }
    }
    Ok(())
}

fn write(root: &OwnedFd, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let step = format!("write {}", path.display());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat(root, inside(path), flags, Mode::from_raw_mode(0o644)).at(&step)?;
    std::io::Write::write_all(&mut fs::File::from(fd), bytes).at(&step)
}
