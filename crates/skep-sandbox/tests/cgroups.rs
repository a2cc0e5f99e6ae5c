//! Limits by cgroups, where one of version 2 is delegated. Made so by root, for itself and for an ordinary user; who is not
//! root has to be given one and is told so.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{FORKS, argv, children, config, is_root, mark, run, script_of, text, wait_for_marked};
use skep_sandbox::{Config, Defence, End, Error, Namespaces, Protection, Request, Run, Sandbox, Start, Tier};
use tokio::time::{sleep, timeout};

/// A cgroup that belongs to a user. Removed with everything below it, of which nothing runs any more.
struct Delegated(PathBuf);

impl Delegated {
    fn to(user: u32) -> Result<Delegated, &'static str> {
        if !is_root() {
            return Err("only root can delegate a cgroup");
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        });
        let Some(mount) = mount else { return Err("no cgroup of version 2 is mounted") };
        for controller in ["+memory", "+pids"] {
            // Where version 1 has them, there is nothing to hand down.
            let _ = fs::write(mount.join("cgroup.subtree_control"), controller);
        }
        let path = mount.join(format!("skep-test-{}", mark()));
        if fs::create_dir(&path).is_err() {
            return Err("cgroups cannot be made here");
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            chown(path.join(file), Some(user), Some(user)).unwrap();
        }
        if user == 0 {
            // Of an ordinary user's it can be seen.
            rustix::fs::setxattr(&path, "trusted.delegate", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
        }
        Ok(Delegated(path))
    }

    /// What a test says that runs in it as `user`.
    fn says(&self, user: u32, test: &str) -> String {
        let enter = "echo $$ > \"$1\"/cgroup.procs; shift; exec \"$@\"";
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        let output = Command::new("sh")
            .args(["-ec", enter, "sh"])
            .arg(&self.0)
            .args(["setpriv", &user, &group, "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .env("CGROUP", &self.0)
            .env("TMPDIR", "/tmp")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            // The last process may be on its way out.
            let _ = (0..100).find(|_| {
                let removed = fs::remove_dir(path);
                std::thread::sleep(Duration::from_millis(5));
                removed.is_ok()
            });
        }
        remove(&self.0);
        assert!(!self.0.exists(), "{} is left", self.0.display());
    }
}

/// Runs `test` in a cgroup that was delegated, as root and as an ordinary user, and hands on what it says.
fn delegated(test: &str, check: impl Fn(&str)) {
    for user in [0, 65534] {
        match Delegated::to(user) {
            Ok(cgroup) => check(&cgroup.says(user, test)),
            Err(why) => return println!("left out: {why}"),
        }
    }
}

/// Sandboxes that have no other limit than the cgroup's.
async fn unlimited(namespaces: Namespaces) -> Sandbox {
    let without = vec![Defence::ResourceLimits, Defence::MemoryWatch];
    Sandbox::start(Config { namespaces, without, ..config() }).await.unwrap()
}

fn accepting(request: Request) -> Request {
    Request { min_tier: Tier::Landlock, ..request }
}

/// Not a promise: what is done in a cgroup.
#[tokio::test]
#[ignore = "run by another test"]
async fn be_limited() {
    let cgroup = PathBuf::from(std::env::var("CGROUP").unwrap());
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap();
    for namespaces in [Namespaces::Required, Namespaces::Unused] {
        let sandbox = unlimited(namespaces).await;
        let missing = run(&sandbox, accepting(argv(&["true"]))).await.missing;
        let limits = |controller: &str| controllers.split_whitespace().any(|one| one == controller);
        assert_eq!(missing.contains(&Protection::MemoryOfAll), !limits("memory"), "{missing:?}");
        if limits("pids") {
            assert!(!missing.contains(&Protection::Processes), "{missing:?}");
            for (processes, start) in [(30, Start::Fresh), (64, Start::Warm)] {
                let mut request = accepting(Request::new(Run::Python(FORKS.into())));
                request.limits.processes = processes;
                let outcome = run(&sandbox, request).await;
                assert_eq!(text(&outcome.stdout), format!("{processes}\n"), "{start:?} {outcome:?}");
            }
            println!("{namespaces:?}: processes are counted");
        } else {
            println!("{namespaces:?}: processes left out: no `pids` in {}: {controllers:?}", cgroup.display());
        }
        if limits("memory") {
            for memory in [100 << 20, 512 << 20] {
                let mut request =
                    accepting(Request::new(Run::Python("x = [b'x' * (9 << 20) for _ in range(100)]".into())));
                request.limits.memory = memory;
                assert_eq!(run(&sandbox, request).await.end, End::MemoryLimit);
            }
            println!("{namespaces:?}: memory is limited");
        } else {
            println!("{namespaces:?}: memory left out: no `memory` in {}: {controllers:?}", cgroup.display());
        }
        for _ in 0..20 {
            assert_eq!(run(&sandbox, accepting(script_of("true"))).await.end, End::Exit(0));
        }
        if controllers.trim().is_empty() && namespaces == Namespaces::Required {
            continue;
        }
        let helpers =
            || fs::read_dir(&cgroup).unwrap().flatten().filter(|entry| is_named(&entry.path(), "skep-helper-"));
        let of_helper = || helpers().map(|helper| directories(&helper.path())).sum::<usize>();
        let settled = async {
            // Launcher and zygote, those that wait, and one that is about to be removed.
            while of_helper() > 8 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), settled).await.unwrap_or_else(|_| panic!("{} cgroups are left", of_helper()));
        drop(sandbox);
        // The next one removes what this one leaves.
        while !children(std::process::id()).is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        let next = unlimited(namespaces).await;
        assert!(helpers().count() <= 1, "{:?}", helpers().collect::<Vec<_>>());
        drop(next);
    }
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn directories(path: &Path) -> usize {
    fs::read_dir(path).unwrap().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

#[test]
fn what_the_cgroup_can_limit_is_limited_and_no_longer_missing() {
    delegated("be_limited", |said| println!("{said}"));
}

/// Not a promise: what is done in a cgroup that is somebody else's.
#[tokio::test]
#[ignore = "run by another test"]
async fn keep_out() {
    let sandbox = unlimited(Namespaces::Unused).await;
    assert_eq!(run(&sandbox, accepting(argv(&["true"]))).await.end, End::Exit(0));
    println!("cgroups: {}", directories(Path::new(&std::env::var("CGROUP").unwrap())));
}

#[test]
fn a_cgroup_that_can_be_written_to_but_was_not_delegated_is_left_alone() {
    match Delegated::to(0) {
        Ok(cgroup) => {
            assert!(cgroup.says(0, "keep_out").contains("cgroups: 1"), "a helper's");
            rustix::fs::removexattr(&cgroup.0, "trusted.delegate").unwrap();
            for entry in fs::read_dir(&cgroup.0).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
                Delegated(entry.path());
            }
            assert!(cgroup.says(0, "keep_out").contains("cgroups: 0"));
        }
        Err(why) => println!("left out: {why}"),
    }
}

/// Not a promise: without namespaces, a keeper is killed.
#[tokio::test]
#[ignore = "run by another test"]
async fn lose_a_keeper() {
    let sandbox = Sandbox::start(Config { namespaces: Namespaces::Unused, ..config() }).await.unwrap();
    let (first, second) = (mark(), mark());
    let sleeper = |mark: &str| accepting(script_of(&format!("(setsid sleep {mark} &); sleep {mark}; echo woken")));
    let kill = async {
        wait_for_marked(&format!("sleep\0{first}"), 2).await;
        let [launcher] = children(std::process::id())[..] else { panic!("one helper, please") };
        let [zygote] = children(launcher)[..] else { panic!("one zygote, please") };
        let [keeper] = children(zygote)[..] else { panic!("one keeper, please") };
        let mut other = accepting(script_of(&format!("sleep {second} & sleep 1; echo woken")));
        other.limits.wall = Duration::from_secs(5);
        let other = sandbox.run(other, Default::default());
        let kill = async {
            wait_for_marked(&format!("sleep\0{second}"), 1).await;
            assert!(Command::new("kill").args(["-9", &keeper.to_string()]).status().unwrap().success());
            wait_for_marked(&format!("sleep\0{first}"), 0).await;
        };
        tokio::join!(other, kill).0
    };
    let (killed, other) = tokio::join!(sandbox.run(sleeper(&first), Default::default()), kill);
    println!("killed: {:?}", killed.map(|outcome| outcome.end));
    println!(
        "other: {:?}",
        other.map(|outcome| text(&outcome.stdout).to_owned()).map_err(|error| matches!(error, Error::HelperDied))
    );
}

#[test]
fn without_namespaces_a_killed_keeper_takes_only_its_own_request_along() {
    delegated("lose_a_keeper", |said| {
        assert!(said.contains("killed: Ok(Signal(9))"), "{said}");
        assert!(said.contains("other: Ok(\"woken\\n\")"), "{said}");
    });
}
