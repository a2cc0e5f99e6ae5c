//! The attack list, run on this machine against this sandbox.
//!
//! Tests on somebody else's machine prove little about this one: kernels are built and configured differently. So the
//! list is part of the product. Owns what is tried and what counts as defended; [`inside`] is the attacker.

pub(crate) mod inside;

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    defence::Defence,
    error::Error,
    outcome::{End, Outcome, Start},
    request::{InFile, Request, Run},
    sandbox::Sandbox,
    tier::{Protection, Tier},
};

/// One attack and how it went.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What was tried.
    pub attack: &'static str,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It reached nothing.
    Defended,
    /// It reached something: what.
    Broken(String),
    /// It could not be tried here: why.
    Untried(String),
    /// It reached something that is not promised at this tier: what.
    NotPromised(String),
}

/// Room in `/tmp` beside the attacker's own executable, in bytes.
const SPARE: u64 = 8 << 20;
/// How long making a sandbox ahead takes, generously. Was there none, the attack is still one.
const POOL_FILLS_WITHIN: Duration = Duration::from_millis(50);
/// Requests after which an interpreter should be waiting.
const WARM_UPS: usize = 10;
/// The deadline for what would not end by itself.
const SHORT: Duration = Duration::from_millis(300);
/// The deadline for what ends by itself, however busy the machine is: what it does takes a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an answer is waited for beyond any deadline.
const ANSWERED_WITHIN: Duration = Duration::from_secs(180);

impl Sandbox {
    /// Attacks this sandbox in every way we know, on this machine. Takes some seconds.
    pub async fn selftest(&self) -> Vec<Attempt> {
        run(self, self.program()).await
    }
}

/// Tries everything.
async fn run(sandbox: &Sandbox, program: &Path) -> Vec<Attempt> {
    let tier = sandbox.tier().await;
    let mut attempts = from_inside(sandbox, program, tier).await;
    attempts.extend(with_requests(sandbox, tier).await);
    for Attempt { attack, verdict } in &mut attempts {
        if let Verdict::Broken(reached) = verdict
            && tier == Tier::Landlock
            && NEEDS_NAMESPACES.contains(attack)
        {
            *verdict = Verdict::NotPromised(std::mem::take(reached));
        }
    }
    attempts
}

/// Attacks that nothing stands against without namespaces: they learn what is there, and use up what is shared.
const NEEDS_NAMESPACES: &[&str] = &[
    "hold memory in sockets",
    "see the host's directories",
    "have capabilities within bounds",
    "learn the host's name",
    "fill the disk",
    "make files without end",
    // Without a user of their own they are counted with others.
    "start more processes than allowed",
    "start more threads than allowed",
];

/// The attack that nobody wants to see succeed.
const BOMB: &str = "bomb of processes";

/// Services of the host that must not be reached.
struct Host {
    tcp: TcpListener,
    udp: UdpSocket,
    abstract_name: String,
    pathname: PathBuf,
    datagrams: PathBuf,
    receiver: UnixDatagram,
    _sockets: [UnixListener; 2],
}

impl Host {
    fn listen() -> io::Result<Host> {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        udp.set_nonblocking(true)?;
        // The port is ours alone, so the names are.
        let abstract_name = format!("skep-selftest-{}", udp.local_addr()?.port());
        let pathname = std::env::temp_dir().join(&abstract_name);
        let datagrams = pathname.with_extension("datagrams");
        let receiver = UnixDatagram::bind(&datagrams)?;
        receiver.set_nonblocking(true)?;
        let sockets = [
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?,
            UnixListener::bind(&pathname)?,
        ];
        // Nothing but the sandbox is to keep its user from them.
        for path in [&pathname, &datagrams] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        }
        Ok(Host {
            tcp: TcpListener::bind("127.0.0.1:0")?,
            udp,
            abstract_name,
            pathname,
            datagrams,
            receiver,
            _sockets: sockets,
        })
    }

    fn variables(&self) -> io::Result<Vec<(String, String)>> {
        Ok(vec![
            (inside::TCP.into(), self.tcp.local_addr()?.to_string()),
            (inside::UDP.into(), self.udp.local_addr()?.to_string()),
            (inside::ABSTRACT.into(), self.abstract_name.clone()),
            (inside::PATHNAME.into(), inside::of_host(&self.pathname)),
            (inside::DATAGRAMS.into(), inside::of_host(&self.datagrams)),
            (inside::SERVER.into(), std::process::id().to_string()),
        ])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be gone already, and nothing else depends on it.
        let _ = std::fs::remove_file(&self.pathname);
        let _ = std::fs::remove_file(&self.datagrams);
    }
}

/// Room for the attacker in a sandbox that was made ahead, with the default limits.
const ROOM: u64 = 60 << 20;

async fn from_inside(sandbox: &Sandbox, program: &Path, tier: Tier) -> Vec<Attempt> {
    let every = |verdict: Verdict| vec![verdict; inside::ATTACKS.len()];
    let prepared = Host::listen().and_then(|host| Ok((host.variables()?, host, std::fs::read(program)?)));
    let (variables, host, bytes) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return named(every(Verdict::Untried(format!("the attacker cannot be prepared: {error}")))),
    };
    let mut request = Request::new(Run::Argv(vec![format!("/tmp/{}", inside::NAME).into()]));
    request.min_tier = tier;
    request.env = variables;
    request.limits.wall = PATIENCE;
    let mut made = request.clone();
    made.limits.tmp = bytes.len() as u64 + SPARE;
    let small = bytes.len() as u64 <= ROOM;
    let attacker = vec![InFile { path: inside::NAME.into(), bytes }];
    made.files.clone_from(&attacker);
    let mut verdicts = attacked(sandbox, made.clone()).await;
    if small {
        // Once more with the default limits, so that a sandbox that was made ahead is attacked, too, and from an
        // interpreter that was started ahead.
        sleep(POOL_FILLS_WITHIN).await;
        let ready = Request { files: attacker, ..request };
        let warm = from_interpreter(&ready);
        also(&mut verdicts, attacked(sandbox, ready).await);
        if warms_up(sandbox).await {
            also(&mut verdicts, attacked(sandbox, warm).await);
        }
    }
    let mut attempts = named(verdicts);
    for hoard in inside::HOARDS {
        attempts.push(Attempt { attack: hoard.name, verdict: hoarded(sandbox, made.clone(), hoard).await });
    }
    let arrived = host.udp.recv(&mut [0]).is_ok() || host.receiver.recv(&mut [0]).is_ok();
    attempts.push(judge("have a datagram arrive at the host", if arrived { Err("one did".into()) } else { Ok(()) }));
    attempts
}

/// An attack counts as defended only if it always was.
fn also(verdicts: &mut [Verdict], more: Vec<Verdict>) {
    for (verdict, more) in verdicts.iter_mut().zip(more) {
        if *verdict == Verdict::Defended {
            *verdict = more;
        }
    }
}

/// The same request, by way of an interpreter that becomes the attacker.
fn from_interpreter(request: &Request) -> Request {
    let variables: Vec<String> = request.env.iter().map(|(name, value)| format!("{name:?}: {value:?}")).collect();
    let (name, variables) = (inside::NAME, variables.join(", "));
    let code = format!("import os\nos.execve('/tmp/{name}', ['/tmp/{name}'], {{**os.environ, {variables}}})");
    Request { run: Run::Python(code), env: Vec::new(), ..request.clone() }
}

/// Whether an interpreter waits for the next request. Not where there is none installed, nor where none may wait.
async fn warms_up(sandbox: &Sandbox) -> bool {
    for _ in 0..WARM_UPS {
        let request = Request { min_tier: Tier::WEAKEST, ..Request::new(Run::Python(String::new())) };
        let outcome = sandbox.run(request, CancellationToken::new()).await;
        if outcome.is_err() {
            return false;
        }
        sleep(POOL_FILLS_WITHIN).await;
        if outcome.is_ok_and(|outcome| outcome.start == Some(Start::Warm)) {
            return true;
        }
    }
    false
}

/// Holds memory of one kind until the sandbox is ended for it.
async fn hoarded(sandbox: &Sandbox, mut request: Request, hoard: &inside::Attack) -> Verdict {
    if let Run::Argv(words) = &mut request.run {
        words.push(hoard.name.into());
    }
    request.limits.memory = inside::HOARD_BYTES / 4;
    match run_to_its_end(sandbox, request).await {
        Ok(Some(outcome)) => match (outcome.end, text(&outcome).trim_end()) {
            // Another limit may have been in the way of this one.
            (End::MemoryLimit, _) | (_, "ok") => Verdict::Defended,
            (_, reached) if outcome.missing.contains(&Protection::MemoryWatch) && !reached.is_empty() => {
                Verdict::NotPromised(reached.to_owned())
            }
            (end, "") => Verdict::Untried(format!("the attacker had ended with {end:?}")),
            (_, reached) => Verdict::Broken(reached.to_owned()),
        },
        Ok(None) => Verdict::Broken(NO_ANSWER.to_owned()),
        Err(error) => Verdict::Untried(error.to_string()),
    }
}

const NO_ANSWER: &str = "there was no answer";

/// Runs a request. `None`: it is not answered, long after its deadline.
async fn run_to_its_end(sandbox: &Sandbox, request: Request) -> Result<Option<Outcome>, Error> {
    timeout(ANSWERED_WITHIN, sandbox.run(request, CancellationToken::new())).await.ok().transpose()
}

/// One verdict for each attack.
async fn attacked(sandbox: &Sandbox, request: Request) -> Vec<Verdict> {
    let outcome = match run_to_its_end(sandbox, request).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return vec![Verdict::Broken(NO_ANSWER.to_owned()); inside::ATTACKS.len()],
        Err(error) => return vec![Verdict::Untried(error.to_string()); inside::ATTACKS.len()],
    };
    let output = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let mut lines = output.lines();
    let verdict = |_| match lines.next() {
        Some("ok") => Verdict::Defended,
        Some(reached) => Verdict::Broken(reached.to_owned()),
        None => Verdict::Untried(format!("the attacker had ended with {:?}", outcome.end)),
    };
    inside::ATTACKS.iter().map(verdict).collect()
}

fn named(verdicts: Vec<Verdict>) -> Vec<Attempt> {
    let names = inside::ATTACKS.iter().map(|attack| attack.name);
    names.zip(verdicts).map(|(attack, verdict)| Attempt { attack, verdict }).collect()
}

fn judge(attack: &'static str, result: Result<(), String>) -> Attempt {
    let verdict = result.map_or_else(Verdict::Broken, |()| Verdict::Defended);
    Attempt { attack, verdict }
}

/// An attack that is a whole request, and how a defended one ends.
struct Case {
    attack: &'static str,
    script: &'static str,
    change: fn(&mut Request),
    defended: fn(&Outcome) -> bool,
}

fn text(outcome: &Outcome) -> &str {
    std::str::from_utf8(&outcome.stdout).unwrap_or_default()
}

fn short(request: &mut Request) {
    request.limits.wall = SHORT;
}

/// That there is an answer at all says that nothing runs any more. When it comes is the machine's business.
fn timed_out(outcome: &Outcome) -> bool {
    outcome.end == End::Timeout
}

fn as_is(_: &mut Request) {}

fn no_outputs(outcome: &Outcome) -> bool {
    outcome.end == End::Exit(0) && outcome.outputs.is_empty() && !outcome.skipped.is_empty()
}

const CASES: &[Case] = &[
    Case { attack: "run for ever", script: "sleep 1000", change: short, defended: timed_out },
    Case {
        attack: "ignore signals",
        script: "trap '' TERM INT HUP QUIT; while :; do sleep 1000; done",
        change: short,
        defended: timed_out,
    },
    Case { attack: "stop oneself", script: "kill -STOP $$", change: short, defended: timed_out },
    Case {
        attack: "close the output and go on",
        script: "exec >&- 2>&-; sleep 1000",
        change: short,
        defended: timed_out,
    },
    Case {
        attack: "leave a daemon behind that holds the output",
        script: "(setsid sleep 1000 &); echo done",
        change: as_is,
        defended: |outcome| outcome.end == End::Exit(0) && text(outcome) == "done\n",
    },
    Case {
        attack: "kill everything",
        script: "kill -9 -1",
        change: short,
        defended: |outcome| matches!(outcome.end, End::Signal(_) | End::Exit(_) | End::Timeout),
    },
    Case {
        attack: BOMB,
        script: "f() { f | f & }; f; sleep 1000",
        change: short,
        // The shell may find no process left for `sleep`.
        defended: |outcome| timed_out(outcome) || matches!(outcome.end, End::Exit(_)),
    },
    Case {
        attack: "flood the output",
        script: "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
        change: |request| request.limits.output = 10_000,
        defended: |outcome| outcome.end == End::OutputLimit && outcome.stdout.len() == 10_000,
    },
    Case {
        attack: "flood the error output",
        script: "cat /dev/zero >&2",
        change: |request| request.limits.output = 10_000,
        defended: |outcome| outcome.end == End::OutputLimit && outcome.stderr.len() == 10_000,
    },
    Case {
        attack: "flood the output byte by byte",
        script: "while :; do printf x; done",
        change: |request| request.limits.output = 10_000,
        defended: |outcome| outcome.end == End::OutputLimit && outcome.stdout.len() == 10_000,
    },
    Case {
        attack: "leave orphans to hide the exit code",
        // All of them at once are fewer than the processes that it may have: a slow machine may be late to end them.
        script: "i=0; while [ $i -lt 20 ]; do (true & true &); i=$((i+1)); done; (sleep 1000 &); exit 7",
        change: as_is,
        defended: |outcome| outcome.end == End::Exit(7),
    },
    Case {
        attack: "use up memory",
        // It is looked at often enough while this waits.
        script: "x=$(head -c 150000000 /dev/zero | tr '\\0' x); sleep 5; echo held",
        change: |request| request.limits.memory = 100 << 20,
        defended: |outcome| outcome.end == End::MemoryLimit,
    },
    Case {
        attack: "fill the disk",
        script: "head -c 3000000 /dev/zero > /tmp/a; stat -c %s /tmp/a",
        change: |request| {
            request.limits.tmp = 1 << 20;
            request.limits.outputs = 8 << 20;
        },
        defended: |outcome| text(outcome) == "1048576\n",
    },
    Case {
        attack: "make files without end",
        script: "i=0; while [ $i -lt 1000 ] && : > /outputs/$i; do i=$((i+1)); done 2>/dev/null; echo $i",
        change: |request| request.limits.files = 20,
        defended: |outcome| outcome.outputs.len() <= 20,
    },
    Case {
        attack: "put out a link to a file of the host",
        script: "ln -s /etc/passwd /outputs/a; ln -s ../../../etc/shadow /outputs/b; ln -s /proc/self/environ /outputs/c",
        change: as_is,
        defended: no_outputs,
    },
    Case {
        attack: "put out a hard link to a file of the host",
        script: "ln /etc/passwd /outputs/a; ln /usr/bin/env /outputs/b; ln /proc/self/environ /outputs/c",
        change: as_is,
        defended: |outcome| outcome.outputs.is_empty() && outcome.skipped.is_empty(),
    },
    Case {
        attack: "put out a directory that is a link",
        script: "ln -s /etc /outputs/etc; ln -s / /outputs/root",
        change: as_is,
        defended: no_outputs,
    },
    Case {
        attack: "put out a pipe that nobody writes to",
        script: "mkfifo /outputs/pipe",
        change: as_is,
        defended: no_outputs,
    },
    Case {
        attack: "put out directories without end",
        script: "cd /outputs; i=0; while [ $i -lt 200 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done",
        change: as_is,
        defended: no_outputs,
    },
    Case {
        attack: "put out a set-user-id program",
        script: "cp /bin/sh /outputs/sh; chmod 6755 /outputs/sh",
        change: as_is,
        // Only contents and one bit are taken over.
        defended: |outcome| outcome.outputs.len() == 1,
    },
    Case {
        attack: "find what another request has left",
        script: "cat /tmp/left /outputs/left /code/left; ls /tmp; touch /tmp/left /outputs/left /code/left",
        change: as_is,
        defended: |outcome| text(outcome).is_empty(),
    },
    Case {
        attack: "find it once more",
        script: "cat /tmp/left /outputs/left /code/left; ls /tmp; touch /tmp/left",
        change: as_is,
        defended: |outcome| text(outcome).is_empty(),
    },
];

async fn with_requests(sandbox: &Sandbox, tier: Tier) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let unlimited = sandbox.without().contains(&Defence::ResourceLimits);
    for case in CASES {
        if case.attack == BOMB && unlimited {
            let verdict = Verdict::Untried("without limits it would take this machine down".into());
            attempts.push(Attempt { attack: case.attack, verdict });
            continue;
        }
        let script = match tier {
            // What is at a fixed place elsewhere.
            Tier::Landlock => case.script.replace("/outputs", "$OUTPUTS").replace("/tmp", "$TMPDIR"),
            _ => case.script.into(),
        };
        let mut request = Request { min_tier: tier, ..Request::new(Run::Shell(script)) };
        request.limits.wall = PATIENCE;
        (case.change)(&mut request);
        let (start, patient) = (Instant::now(), request.limits.wall == PATIENCE);
        let verdict = match run_to_its_end(sandbox, request).await {
            Ok(None) => Verdict::Broken(NO_ANSWER.to_owned()),
            Ok(Some(outcome)) if (case.defended)(&outcome) => Verdict::Defended,
            // It reached nothing, and was not seen to fail either.
            Ok(Some(outcome)) if patient && outcome.end == End::Timeout => {
                Verdict::Untried(format!("this machine is too busy: it was not done after {PATIENCE:?}"))
            }
            Ok(Some(outcome)) => Verdict::Broken(format!(
                "it ended with {:?} after {:?}, {} bytes, {} files",
                outcome.end,
                start.elapsed(),
                outcome.stdout.len() + outcome.stderr.len(),
                outcome.outputs.len()
            )),
            Err(error @ Error::HelperDied) => Verdict::Broken(error.to_string()),
            Err(error) => Verdict::Untried(error.to_string()),
        };
        attempts.push(Attempt { attack: case.attack, verdict });
    }
    attempts
}
