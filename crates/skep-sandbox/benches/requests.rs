//! What a sandbox costs, beside a plain process and beside bubblewrap.
//!
//! Latency: all variants take turns in one process, so that whatever else the machine does hits them alike; before each
//! sample the bench waits a little for the machine to be idle. Throughput: each variant alone, at growing concurrency.
//! Deadlines: how long after one the answer comes. Memory: what waits, if root runs the bench. As root it becomes `nobody` first, since that is how sandboxes are
//! measured fairly: `cargo bench -p skep-sandbox [-- SAMPLES]`.
#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use skep_sandbox::{Config, End, Request, Run, Sandbox};
use tokio::runtime::{Handle, Runtime};

/// Samples of each variant.
const SAMPLES: usize = 300;
/// Runs before that, to warm caches.
const WARM_UP: usize = 20;
/// How long one point of the throughput table takes.
const POINT: Duration = Duration::from_secs(3);
/// How long a sample waits for the machine to be idle.
const IDLE_WITHIN: Duration = Duration::from_millis(20);

/// A way to run something, from request to answer.
struct Variant {
    name: &'static str,
    once: Arc<dyn Fn() + Send + Sync>,
}

fn main() {
    skep_sandbox::init();
    if std::env::args().any(|word| word == HOLD) {
        return hold();
    }
    if rustix::process::geteuid().is_root() {
        memory();
    }
    become_ordinary();
    let samples = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(SAMPLES);
    let runtime = Runtime::new().unwrap();
    let sandbox = runtime.block_on(Sandbox::start(Config::default())).unwrap();
    let here = |request: Request| {
        let (sandbox, handle) = (sandbox.clone(), runtime.handle().clone());
        Arc::new(move || run(&sandbox, &handle, request.clone())) as Arc<dyn Fn() + Send + Sync>
    };
    let argv = |words: &[&str]| Request::new(Run::Argv(words.iter().map(Into::into).collect()));

    let tiny = [
        Variant { name: "fork+exec", once: Arc::new(|| spawn("/bin/true", &[], true)) },
        Variant { name: "fork+exec, piped", once: Arc::new(|| capture("/bin/true")) },
        Variant { name: "posix_spawn", once: Arc::new(|| spawn("/bin/true", &[], false)) },
        Variant { name: "skep", once: here(argv(&["/bin/true"])) },
        Variant { name: "bubblewrap", once: Arc::new(|| spawn("bwrap", &bubblewrap(&["/bin/true"]), false)) },
    ];
    let python = [
        Variant { name: "python3 plain", once: Arc::new(|| spawn("/usr/bin/python3", &["-c", "print(1)"], true)) },
        Variant { name: "python3 skep", once: here(Request::new(Run::Python("print(1)".into()))) },
        Variant {
            name: "python3 bubblewrap",
            once: Arc::new(|| spawn("bwrap", &bubblewrap(&["/usr/bin/python3", "-c", "print(1)"]), false)),
        },
    ];
    let node = [
        Variant { name: "node plain", once: Arc::new(|| spawn("/usr/bin/node", &["-e", "console.log(1)"], true)) },
        Variant { name: "node skep", once: here(Request::new(Run::JavaScript("console.log(1)".into()))) },
    ];
    let first = Variant {
        name: "start, run, stop",
        once: {
            let (handle, true_) = (runtime.handle().clone(), argv(&["/bin/true"]));
            Arc::new(move || {
                let sandbox = handle.block_on(Sandbox::start(Config::default())).unwrap();
                run(&sandbox, &handle, true_.clone());
            })
        },
    };
    latency(&[first], samples / 4);
    for (variants, samples) in [(&tiny[..], samples), (&python[..], samples), (&node[..], samples / 2)] {
        latency(variants, samples);
    }
    deadlines(&sandbox, &runtime, samples / 3);
    // In a server with a gigabyte of memory a fork has that much to copy.
    let memory = vec![1u8; LARGE];
    println!("with {} MB in memory:", memory.len() >> 20);
    latency(&tiny[..4], samples / 6);
    drop(memory);
    throughput(&tiny);
}

/// What a large server holds, in bytes.
const LARGE: usize = 1 << 30;
/// A deadline that is to be met.
const DEADLINE: Duration = Duration::from_millis(100);
/// The user `nobody` and its group.
const NOBODY: u32 = 65534;

/// The argument with which this program keeps sandboxes waiting until its standard input closes.
const HOLD: &str = "hold";
/// How long sandboxes and interpreters are given to be made and to come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// Makes sandboxes and interpreters wait, and says when they do.
fn hold() {
    let runtime = Runtime::new().unwrap();
    let sandbox = runtime.block_on(Sandbox::start(Config::default())).unwrap();
    for request in [Run::Python("1".into()), Run::JavaScript("1".into())] {
        run(&sandbox, runtime.handle(), Request::new(request));
    }
    thread::sleep(SETTLE);
    println!("held");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Measures what waits in another process, which runs as an ordinary user. Only root may look into sandboxes.
///
/// What the kernel holds for them (namespaces, mounts, page tables) is not in these numbers.
fn memory() {
    let mut holder = Command::new("/proc/self/exe");
    holder.arg(HOLD).uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");

    println!("{:<20} {:>9} {:>9}", "one that waits", "PSS kB", "private");
    // The launcher, the zygote, and then the keeper of each sandbox.
    let launcher = children(holder.id());
    for keeper in launcher.into_iter().flat_map(children).flat_map(children) {
        let command = children(keeper);
        let name = command.first().map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap());
        let of = |fields: &[&str]| command.iter().chain([&keeper]).map(|pid| held(*pid, fields)).sum::<u64>();
        let private = of(&["Private_Dirty:", "Private_Clean:", "Private_Hugetlb:"]);
        println!("{:<20} {:>9} {private:>9}", name.unwrap_or_default().trim(), of(&["Pss:"]));
    }
    println!();
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// The sum of some fields of what a process holds, in kB.
fn held(pid: u32, fields: &[&str]) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
    lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

/// Starts over as an ordinary user if this is root.
fn become_ordinary() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Its path may lie where only root can go; this one does not need it.
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).uid(NOBODY).gid(NOBODY).current_dir("/");
    panic!("cannot start over: {}", command.exec());
}

fn deadlines(sandbox: &Sandbox, runtime: &Runtime, samples: usize) {
    let mut request = Request::new(Run::Shell("trap '' TERM; (setsid sleep 1000 &); while :; do :; done".into()));
    request.limits.wall = DEADLINE;
    let mut late: Vec<Duration> = (0..samples)
        .map(|_| {
            let start = Instant::now();
            let (sandbox, request) = (sandbox.clone(), request.clone());
            let task = runtime.spawn(async move { sandbox.run(request, Default::default()).await });
            assert_eq!(runtime.block_on(task).unwrap().unwrap().end, End::Timeout);
            start.elapsed() - DEADLINE
        })
        .collect();
    late.sort_unstable();
    let at = |percent: usize| late[(late.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("after a deadline, ms: median {:.1}, p90 {:.1}, worst {:.1}\n", at(50), at(90), at(100));
}

fn run(sandbox: &Sandbox, runtime: &Handle, request: Request) {
    // On a worker, as a server would.
    let sandbox = sandbox.clone();
    let task = runtime.spawn(async move { sandbox.run(request, Default::default()).await });
    let outcome = runtime.block_on(task).unwrap().unwrap();
    assert_eq!(outcome.end, End::Exit(0), "{outcome:?}");
}

/// The same isolation as far as bubblewrap has it.
fn bubblewrap<'a>(command: &[&'a str]) -> Vec<&'a str> {
    let options = "--unshare-all --die-with-parent --new-session --clearenv --ro-bind /usr /usr --symlink usr/bin /bin \
                   --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --cap-drop ALL";
    options.split_whitespace().chain(command.iter().copied()).collect()
}

fn spawn(program: &str, arguments: &[&str], fork: bool) {
    let mut command = plain(program, fork);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// Forks, executes, and reads the output as a sandbox's is read.
fn capture(program: &str) {
    assert!(plain(program, true).output().unwrap().status.success());
}

fn plain(program: &str, fork: bool) -> Command {
    let mut command = Command::new(program);
    // As clean as inside: an interpreter's start depends on its environment.
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
    if fork {
        // SAFETY: does nothing. That there is something to do between fork and exec rules out `posix_spawn`.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    command
}

fn latency(variants: &[Variant], samples: usize) {
    let mut times: Vec<Vec<Duration>> = variants.iter().map(|_| Vec::with_capacity(samples)).collect();
    for round in 0..samples + WARM_UP {
        for (variant, times) in variants.iter().zip(&mut times) {
            wait_until_idle();
            let start = Instant::now();
            (variant.once)();
            let time = start.elapsed();
            if round >= WARM_UP {
                times.push(time);
            }
        }
    }
    println!("{:<20} {:>9} {:>9} {:>9} {:>7}", "one at a time", "p10 us", "median", "p90", "x first");
    let mut first = None;
    for (variant, times) in variants.iter().zip(&mut times) {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
        let first = *first.get_or_insert(at(50));
        let ratio = at(50) / first;
        println!("{:<20} {:>9.0} {:>9.0} {:>9.0} {ratio:>7.2}", variant.name, at(10), at(50), at(90));
    }
    println!();
}

fn throughput(variants: &[Variant]) {
    println!("{:<20} {:>9} {:>9} {:>9}", "runs a second", "c=2", "c=8", "c=32");
    for variant in variants {
        let rates: Vec<String> = [2, 8, 32].map(|callers| format!("{:>9.0}", rate(variant, callers))).into();
        println!("{:<20} {}", variant.name, rates.join(" "));
    }
}

fn rate(variant: &Variant, callers: usize) -> f64 {
    let done = AtomicU32::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while start.elapsed() < POINT {
                    (variant.once)();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    f64::from(done.into_inner()) / start.elapsed().as_secs_f64()
}

/// Waits until nothing but this runs.
fn wait_until_idle() {
    let start = Instant::now();
    while start.elapsed() < IDLE_WITHIN {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let running = stat.lines().find_map(|line| line.strip_prefix("procs_running ")).unwrap();
        if running == "1" {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
