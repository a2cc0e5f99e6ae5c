//! Tells the program what it was built from (`skep --version`), and packs its relocations.

use std::{env, fs, path::Path, process::Command};

/// The first glibc that unpacks packed relocations.
const GLIBC: (u32, u32) = (2, 36);

fn main() {
    name_the_build();
    pack_relocations();
}

/// Name the commit, the profile and the machine. Without git, or outside of Skep's repository, the commit is left out.
fn name_the_build() {
    let [profile, target] = ["PROFILE", "TARGET"].map(|name| env::var(name).unwrap_or_default());
    // Sources that change without a commit are a reason to look again, too.
    println!("cargo::rerun-if-changed=..");
    for file in ["HEAD", "logs/HEAD"] {
        // A file that does not exist would have this run at every build.
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| fs::exists(path).unwrap_or(false)) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = is_own_repository().then(|| git(&["log", "-1", "--abbrev=12", "--format=%h %cs"])).flatten();
    let commit = commit.map(|commit| format!("{}{commit}, ", if is_changed() { "changed since " } else { "" }));
    println!("cargo::rustc-env=SKEP_BUILD=({}{profile}, {target})", commit.unwrap_or_default());
}

/// Whether the repository around this directory is Skep's, and not one that only has it somewhere below.
fn is_own_repository() -> bool {
    let root = git(&["rev-parse", "--show-toplevel"]);
    root.is_some_and(|root| Path::new(&root).join("crates/skep/build.rs").exists())
}

fn is_changed() -> bool {
    git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Pack the program's relocations (`DT_RELR`) where the C library can unpack them, which glibc does since 2.36: a megabyte
/// less to read at each start, and to keep in memory.
fn pack_relocations() {
    let [target, host] = ["TARGET", "HOST"].map(|name| env::var(name).unwrap_or_default());
    // Elsewhere the program may meet another library than the one that is here.
    if target == host && target.ends_with("-linux-gnu") && glibc().is_some_and(|version| version >= GLIBC) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let (major, minor) = std::str::from_utf8(&said).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
