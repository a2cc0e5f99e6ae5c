//! What the HTTP listener adds to a sandbox, and how many requests it takes.
//!
//! `cargo xtask bench process`, or `bench-process [PATH OF skep]`. A real `skep serve` is started on a free port. Each request
//! of `bash true` stands beside the same command in a bare sandbox of this process, one after the other in turn, so that
//! whatever else the machine does meets both.
#![expect(clippy::print_stdout, reason = "a measurement's output")]

use std::{
    io,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use skep_bench as _; // its allocator
use skep_sandbox::{Bind, Config, Request, Run, Sandbox};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Pairs of a request and a bare sandbox, one by one.
const PAIRS: usize = 1000;
/// Pairs that are thrown away at first.
const WARM_UP: usize = 50;
/// The design that Skep follows was measured with so many requests, one by one and …
const REQUESTS: usize = 100;
/// … so many at once.
const AT_ONCE: usize = 8;
/// Rounds of such requests, to the hub and to bare sandboxes in turn.
const ROUNDS: usize = 15;
/// Connections for the throughput of the hub by itself.
const CONNECTIONS: [usize; 3] = [1, 64, 1024];
/// How long each of them is measured.
const THROUGHPUT_TIME: Duration = Duration::from_secs(3);
/// The highest median that `POST /process` may add to the bare sandbox.
const ADDED_TARGET: Duration = Duration::from_micros(300);

const BASH_TRUE: &str = r#"{"tool":"bash","args":{"command":"true"}}"#;
/// Goes the whole way through the listener and the catalogue, but nothing is run.
const NOTHING: &str = r#"{"tool":"nothing","args":{}}"#;

fn main() -> io::Result<()> {
    skep_sandbox::init();
    // One thread: what waits for the hub is woken where it waits, and the server has a core to itself.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> io::Result<()> {
    let workspace = tempfile::tempdir()?;
    let hub = Hub::start(&workspace).await?;
    let bare = Bare::start(&workspace).await?;
    one_by_one(&hub, &bare).await?;
    in_rounds(&hub, &bare).await?;
    for connections in CONNECTIONS {
        throughput(&hub, connections).await?;
    }
    Ok(())
}

/// The hub's latency beside the bare sandbox's.
async fn one_by_one(hub: &Hub, bare: &Bare) -> io::Result<()> {
    let mut client = hub.connect().await?;
    let (mut served, mut bares, mut nothings) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..WARM_UP + PAIRS {
        // Who comes first takes turns, too.
        let (called, alone) = if pair % 2 == 0 {
            let called = client.timed(BASH_TRUE).await?;
            (called, bare.timed().await?)
        } else {
            let alone = bare.timed().await?;
            (client.timed(BASH_TRUE).await?, alone)
        };
        let nothing = client.timed(NOTHING).await?;
        if pair >= WARM_UP {
            served.push(called);
            bares.push(alone);
            nothings.push(nothing);
        }
    }
    let (served, bares, nothings) = (Sorted::new(served), Sorted::new(bares), Sorted::new(nothings));
    println!("one by one, {PAIRS} pairs             p50        p99");
    println!("POST /process bash true          {}   {}", ms(served.at(0.5)), ms(served.at(0.99)));
    println!("the same in a bare sandbox       {}   {}", ms(bares.at(0.5)), ms(bares.at(0.99)));
    println!("POST /process that runs nothing  {}   {}", ms(nothings.at(0.5)), ms(nothings.at(0.99)));
    let (called, alone) = (served.at(0.5), bares.at(0.5));
    let added = called.as_secs_f64() - alone.as_secs_f64();
    let verdict = if added <= ADDED_TARGET.as_secs_f64() { "within" } else { "MORE THAN" };
    println!("added at p50: {:.3} ms, {verdict} the target of {}", added * 1e3, ms(ADDED_TARGET).trim());
    Ok(())
}

/// A hundred requests, one by one and eight at once.
async fn in_rounds(hub: &Hub, bare: &Bare) -> io::Result<()> {
    for at_once in [1, AT_ONCE] {
        let (mut served, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            served.push(hub.round(at_once).await?);
            bares.push(bare.round(at_once).await?);
        }
        let (served, bares) = (Sorted::new(served), Sorted::new(bares));
        let (called, alone) = (served.at(0.5).as_secs_f64(), bares.at(0.5).as_secs_f64());
        println!(
            "{REQUESTS} requests, {at_once} at once: {:.1} ms in all by the hub, {:.1} ms in bare sandboxes, ratio {:.2}",
            called * 1e3,
            alone * 1e3,
            called / alone
        );
    }
    Ok(())
}

/// Requests a second with many connections, each of which waits for its answers.
async fn throughput(hub: &Hub, connections: usize) -> io::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(hub.connect().await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < THROUGHPUT_TIME {
                took.push(client.timed(NOTHING).await?);
            }
            io::Result::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = tasks.join_next().await {
        all.extend(took.map_err(io::Error::other)??);
    }
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    let all = Sorted::new(all);
    println!(
        "{connections:>4} connections, nothing run: {rate:>6.0} requests/s, p50 {}, p99 {}",
        ms(all.at(0.5)).trim(),
        ms(all.at(0.99)).trim()
    );
    Ok(())
}

/// A running `skep serve`; ends with this value.
struct Hub {
    address: String,
    _child: Child,
    _state: tempfile::TempDir,
}

impl Hub {
    async fn start(workspace: &tempfile::TempDir) -> io::Result<Hub> {
        let beside = std::env::current_exe()?.with_file_name("skep");
        let program = std::env::args_os().nth(1).map_or(beside, PathBuf::from);
        let state = tempfile::tempdir()?;
        let mut child = Command::new(&program)
            .args(["serve", "--bind", "127.0.0.1:0", "--workspace"])
            .arg(workspace.path())
            .env("SKEP_HOME", state.path())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no standard error"))?;
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((_, address)) = line.split_once("http://") {
                let hub = Hub { address: address.trim().to_owned(), _child: child, _state: state };
                return Ok(hub);
            }
        }
        Err(io::Error::other(format!("{} serve ended without saying where it listens", program.display())))
    }

    async fn connect(&self) -> io::Result<Client> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, answer: Vec::with_capacity(4096) })
    }

    async fn round(&self, at_once: usize) -> io::Result<Duration> {
        let mut clients = Vec::new();
        for _ in 0..at_once {
            clients.push(self.connect().await?);
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (index, mut client) in clients.into_iter().enumerate() {
            tasks.spawn(async move {
                for _ in (index..REQUESTS).step_by(at_once) {
                    client.timed(BASH_TRUE).await?;
                }
                io::Result::Ok(())
            });
        }
        all_well(tasks).await?;
        Ok(began.elapsed())
    }
}

/// The bare sandbox, set up as the hub sets up its own.
#[derive(Clone)]
struct Bare {
    sandbox: Sandbox,
}

impl Bare {
    async fn start(workspace: &tempfile::TempDir) -> io::Result<Bare> {
        let bind =
            |target: &str| Bind { source: workspace.path().to_owned(), target: target.into(), hidden: Vec::new() };
        let config = Config { binds: vec![bind("/workspace"), bind("/inputs")], ..Config::default() };
        Ok(Bare { sandbox: Sandbox::start(config).await.map_err(io::Error::other)? })
    }

    async fn timed(&self) -> io::Result<Duration> {
        let mut request = Request::new(Run::Bash("true".to_owned()));
        request.cwd = Some("/workspace".into());
        let began = Instant::now();
        let outcome = self.sandbox.run(request, CancellationToken::new()).await.map_err(io::Error::other)?;
        let took = began.elapsed();
        match outcome.end {
            skep_sandbox::End::Exit(0) => Ok(took),
            other => Err(io::Error::other(format!("the bare sandbox ended with {other:?}"))),
        }
    }

    async fn round(&self, at_once: usize) -> io::Result<Duration> {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for index in 0..at_once {
            let bare = self.clone();
            tasks.spawn(async move {
                for _ in (index..REQUESTS).step_by(at_once) {
                    bare.timed().await?;
                }
                io::Result::Ok(())
            });
        }
        all_well(tasks).await?;
        Ok(began.elapsed())
    }
}

async fn all_well(mut tasks: JoinSet<io::Result<()>>) -> io::Result<()> {
    while let Some(task) = tasks.join_next().await {
        task.map_err(io::Error::other)??;
    }
    Ok(())
}

/// One kept connection. It understands just enough HTTP for what the hub answers, and so costs little beside it.
struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    async fn timed(&mut self, body: &str) -> io::Result<Duration> {
        let request = format!(
            "POST /process HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        self.stream.write_all(request.as_bytes()).await?;
        self.answer.clear();
        let whole = loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(whole) = whole_length(&self.answer)
                && whole <= self.answer.len()
            {
                break whole;
            }
        };
        let took = began.elapsed();
        let text = String::from_utf8_lossy(&self.answer[..whole]);
        let expected = if body == NOTHING { r#""code":"unknown_tool""# } else { r#""exit_code":0"# };
        if text.starts_with("HTTP/1.1 200 ") && text.contains(expected) {
            Ok(took)
        } else {
            Err(io::Error::other(text))
        }
    }
}

/// Bytes of head and body together, as soon as the head is there.
fn whole_length(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    Some(end + 4 + length.parse::<usize>().ok()?)
}

struct Sorted(Vec<Duration>);

impl Sorted {
    fn new(mut all: Vec<Duration>) -> Sorted {
        all.sort_unstable();
        Sorted(all)
    }

    /// The value that the share `quantile` of all values does not exceed.
    fn at(&self, quantile: f64) -> Duration {
        let index = (self.0.len() as f64 * quantile) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

fn ms(duration: Duration) -> String {
    format!("{:>5.3} ms", duration.as_secs_f64() * 1e3)
}
