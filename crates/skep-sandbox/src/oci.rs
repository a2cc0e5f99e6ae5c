//! Running requests in containers, where an operator prefers that or this machine can do no more.
//!
//! Off by default ([`Config::oci`](crate::Config::oci)), and weaker than the rest of this crate, so a request must accept
//! [`Tier::Oci`]. A program's command line is called as a person would: that of a runtime with a root directory
//! (`runc run`, [`bundle`]), or of an engine with an image (`podman run`, `docker run`, [`engine`]). Owns the life of a
//! container, from its start until it is removed; that none outlives its server is the [`guard`]'s. What is in the
//! container's root is the operator's.

mod bundle;
mod engine;
pub(crate) mod guard;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::geteuid;
use tokio::{
    process::{Child, Command},
    select,
    sync::mpsc::Sender,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{bundle::Bundle, guard::Guarded};
use crate::{
    bind::Bind,
    error::Error,
    outcome::{End, Outcome, Usage},
    output::{self, Output, Piece, Stream},
    outputs,
    request::Net,
    tier::{Protection, Tier},
    wire::Job,
};

/// What runs containers, and what they are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oci {
    /// The program: its path, or its name on `PATH`. A runtime such as `runc` for a [`Source::Root`], `podman` or `docker`
    /// for a [`Source::Image`].
    pub runtime: PathBuf,
    /// What every container is made from.
    pub source: Source,
}

/// What containers are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory with the root. It is shown read-only.
    Root(PathBuf),
    /// The name of an image that the engine has already; none is pulled.
    Image(String),
}

/// Whose command line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Runtime,
    Podman,
    Docker,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Runtime, Kind::Podman, Kind::Docker];

    fn as_str(self) -> &'static str {
        match self {
            Kind::Runtime => "runtime",
            Kind::Podman => "podman",
            Kind::Docker => "docker",
        }
    }

    fn of(name: &[u8]) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str().as_bytes() == name)
    }

    /// What removes running containers of an engine at once.
    fn removal(self) -> &'static [&'static str] {
        match self {
            // It would ask them to stop first, and wait.
            Kind::Podman => &["rm", "--force", "--time=0"],
            Kind::Runtime | Kind::Docker => &["rm", "--force"],
        }
    }
}

/// The label of an engine's containers; the server's name is its value.
const LABEL: &str = "skep.sandbox";
/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// One that was just being made when it was killed has to be killed again, so often.
const KILL_EVERY: Duration = Duration::from_millis(300);
/// How long the program may take to answer a question.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Containers of one server.
#[derive(Debug)]
pub(crate) struct Containers {
    oci: Oci,
    kind: Kind,
    guarded: Guarded,
}

impl Containers {
    /// Finds out whether there is such a program and such a source, and starts the guard, which is `helper`.
    pub(crate) async fn start(oci: &Oci, binds: &[Bind], helper: &Path) -> Result<Containers, Error> {
        let unavailable = |reason: String, cure: String| Err(Error::Unavailable { reason, cure });
        let runtime = oci.runtime.display();
        let version = match ask(&oci.runtime, &["--version"]).await {
            Ok(version) => version,
            Err(why) => return unavailable(why, INSTALL.into()),
        };
        let kind = match &oci.source {
            Source::Root(root) if !root.is_dir() => {
                let reason = format!("{} is not a directory with the root of a container", root.display());
                return unavailable(reason, "unpack an image there".into());
            }
            Source::Root(_) => Kind::Runtime,
            Source::Image(_) if version.to_lowercase().contains("podman") => Kind::Podman,
            Source::Image(_) => Kind::Docker,
        };
        if let Source::Image(image) = &oci.source {
            if image.is_empty() || image.starts_with('-') {
                return Err(Error::Invalid(format!("`{image}` is not the name of an image")));
            }
            if let Err(why) = ask(&oci.runtime, &["image", "inspect", "--format={{.Id}}", image]).await {
                return unavailable(why, format!("{runtime} pull {image}"));
            }
            let can_name = |bind: &Bind| {
                let hidden = bind.hidden.iter().map(|place| bind.target.join(place));
                [bind.source.clone(), bind.target.clone()].into_iter().chain(hidden).all(|path| engine::can_name(&path))
            };
            let unnamed = binds.iter().find(|bind| !can_name(bind));
            if let Some(Bind { source, .. }) = unnamed {
                let why =
                    format!("{} cannot be shown to a container: it has a comma or a quote in it", source.display());
                return Err(Error::Invalid(why));
            }
        }
        let guarded = Guarded::start(helper, kind, &oci.runtime).await?;
        Ok(Containers { oci: oci.clone(), kind, guarded })
    }

    /// Runs one request in a container of its own.
    pub(crate) async fn run(
        &self,
        binds: &[Bind],
        job: Job,
        stdin: Option<OwnedFd>,
        sink: Option<Sender<Piece>>,
        cancel: &CancellationToken,
    ) -> Result<Outcome, Error> {
        if let Net::Allow(_) = job.net {
            return Err(Error::Invalid("hosts cannot be granted to a container".into()));
        }
        let started = Instant::now();
        let bundle = Bundle::new(&self.guarded, &job).map_err(|source| setup("make the bundle", source))?;
        let mut container = Container { containers: self, bundle: &bundle, over: false };
        let mut child = container.start(binds, &job, stdin).map_err(|source| setup("execute the runtime", source))?;
        let mut output = Output::new(job.limits.output, sink);
        let deadline = started + job.limits.wall;
        let forced = follow(&mut output, &mut child, deadline, cancel)
            .await
            .map_err(|source| setup("read the output", source))?;
        let code = match forced {
            None => child.wait().await.map(|status| status.code()),
            Some(_) => container.end(&mut child).await,
        };
        let code = code.map_err(|source| setup("wait for the runtime", source))?;
        container.remove().await;
        let not_run = match self.kind {
            _ if forced.is_some() => None,
            Kind::Runtime => bundle.was_not_run().then(|| bundle.why()),
            Kind::Podman | Kind::Docker => engine::why_not_run(code, &output.stderr),
        };
        if let Some(why) = not_run {
            return Err(because(why));
        }
        let (root, bytes_max) =
            (bundle.outputs().map_err(|source| setup("open the outputs", source))?, job.limits.outputs);
        let found = tokio::task::spawn_blocking(move || outputs::collect(&root, bytes_max)).await.unwrap_or_default();
        let wall = started.elapsed();
        output.pass_rest_on(cancel).await;
        Ok(Outcome {
            end: forced.unwrap_or_else(|| end(code)),
            stdout: output.stdout,
            stderr: output.stderr,
            truncated: output.truncated,
            outputs: found.files,
            skipped: found.skipped,
            usage: Usage { wall, ..Usage::default() },
            start: None,
            connections: Vec::new(),
            tier: Tier::Oci,
            missing: missing(),
        })
    }
}

/// What is not enforced in a container.
pub(crate) fn missing() -> Vec<Protection> {
    use Protection::{Disk, KernelMemory, Landlock, MemoryOfAll, MemoryWatch, Quotas};
    // Only root can be relied on to have a cgroup to give.
    let memory: &[Protection] = if geteuid().is_root() { &[] } else { &[MemoryOfAll, KernelMemory] };
    memory.iter().copied().chain([MemoryWatch, Quotas, Landlock, Disk]).collect()
}

const INSTALL: &str = "install it (apt-get install runc), or name another";

fn setup(step: &str, source: io::Error) -> Error {
    Error::Setup { step: step.into(), source }
}

/// The error of a container whose program did not run, which the runtime has words for but no code of its own.
fn because(why: String) -> Error {
    let said = why.to_lowercase();
    let of_program = said.contains("exec:") || said.contains("executable");
    let missing = ["no such file or directory", "not found"].iter().any(|words| said.contains(words));
    match of_program {
        true => Error::Unexecuted { why, found: !missing },
        false => Error::Invalid(why),
    }
}

/// What the program answers, or how it fails to.
async fn ask(program: &Path, words: &[&str]) -> Result<String, String> {
    let name = program.display();
    let answer = Command::new(program).args(words).stdin(Stdio::null()).kill_on_drop(true).output();
    match timeout(ANSWERS_WITHIN, answer).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect::<String>();
            Err(format!("{name} {} ends with {}: {said}", words.join(" "), output.status))
        }
        Ok(Err(error)) => Err(format!("{name} cannot be executed: {error}")),
        Err(_) => Err(format!("{name} does not answer")),
    }
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
    containers: &'a Containers,
    bundle: &'a Bundle,
    over: bool,
}

impl Container<'_> {
    fn start(&self, binds: &[Bind], job: &Job, stdin: Option<OwnedFd>) -> io::Result<Child> {
        let Containers { oci, kind, guarded } = self.containers;
        let mut command = match &oci.source {
            Source::Root(root) => {
                self.bundle.configure(root, binds, job)?;
                let mut command = self.call(&["--log", &self.bundle.path("log"), "--log-format", "text", "run"]);
                command.arg("--bundle").arg(self.bundle.path("")).arg(&self.bundle.id);
                command
            }
            Source::Image(image) => {
                self.bundle.write_filter()?;
                let mut command = self.call(&[]);
                command.args(engine::words(*kind, image, &guarded.name(), self.bundle, binds, job));
                command
            }
        };
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn()
    }

    fn call(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.containers.oci.runtime);
        if self.containers.kind == Kind::Runtime {
            command.arg("--root").arg(self.bundle.path("state"));
        }
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Podman's monitor leaves a file where it is when a container ran out of memory.
        command.current_dir(self.bundle.path(""));
        command
    }

    /// What kills it with everything in it. It may be just being made, or over.
    fn removal(&self) -> Command {
        let mut command = match self.containers.kind {
            Kind::Runtime => self.call(&["delete", "--force"]),
            kind => self.call(kind.removal()),
        };
        command.arg(&self.bundle.id);
        command
    }

    /// Kills it, and with it the program that has started it, which is to see it end but may be stuck with output that
    /// nobody reads any more.
    async fn end(&self, child: &mut Child) -> io::Result<Option<i32>> {
        let killed = Instant::now();
        while killed.elapsed() < GONE_WITHIN {
            let removed = self.removal().status().await;
            if let Ok(status) = timeout(KILL_EVERY, child.wait()).await {
                return Ok(status?.code());
            }
            if removed.is_ok_and(|status| status.success()) {
                child.start_kill()?;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn remove(&mut self) {
        // An engine does so by itself, which takes it longer than a runtime.
        if self.containers.kind == Kind::Runtime {
            let _ = self.removal().status().await;
        }
        self.over = true;
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.over {
            // Nobody waits any more, but the container must not go on, nor lose its bundle under way. This takes some
            // milliseconds of whoever dropped it.
            if let Err(error) = self.removal().into_std().status() {
                tracing::warn!(%error, "a container could not be removed");
            }
        }
    }
}

/// Reads until both ends are closed. Otherwise: why the container is to be ended.
async fn follow(
    output: &mut Output,
    child: &mut Child,
    deadline: Instant,
    cancel: &CancellationToken,
) -> io::Result<Option<End>> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let within = select! {
            biased;
            () = output.sink.room(), if output.sink.is_behind() => {
                output.pass_on();
                true
            }
            read = output::read(&mut stdout, &mut output.stdout), if out_open => {
                out_open = read? > 0;
                output.keep(Stream::Stdout)
            }
            read = output::read(&mut stderr, &mut output.stderr), if err_open => {
                err_open = read? > 0;
                output.keep(Stream::Stderr)
            }
            () = cancel.cancelled() => return Ok(Some(End::Cancelled)),
            () = sleep_until(deadline.into()) => return Ok(Some(End::Timeout)),
        };
        if !within {
            return Ok(Some(End::OutputLimit));
        }
    }
    // Closed outputs are not the end.
    loop {
        select! {
            biased;
            _ = child.wait() => return Ok(None),
            () = output.sink.room(), if output.sink.is_behind() => output.pass_on(),
            () = cancel.cancelled() => return Ok(Some(End::Cancelled)),
            () = sleep_until(deadline.into()) => return Ok(Some(End::Timeout)),
        }
    }
}
