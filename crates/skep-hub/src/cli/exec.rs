//! `skep exec`.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use skep_sandbox::{End, Error, InFile, Net, Outcome, Piece, Request, Run, Sandbox, Stream};
use skep_tools::{
    document,
    duration::Span,
    net, sandboxed,
    size::Size,
    workspace::{Dir, Outputs, WORKSPACE_INSIDE},
};
use tokio::sync::mpsc;

use super::{Common, print, say, stop_on_signal};
use crate::{
    config::Overrides,
    hub,
    terminal::{Screen, line},
};

/// What a command may be given altogether, in bytes: input, program and files.
const GIVEN_BYTES_MAX: u64 = 64 << 20;
/// The command did not end by itself: its deadline came, as `timeout(1)` has it.
const TIMED_OUT: u8 = 124;
/// It was not run, or stopped at a limit.
const NOT_RUN: u8 = 125;
/// Its program is there, but cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;
/// Pieces of output that may wait to be written; what comes meanwhile is kept by the sandbox.
const PIECES_MAX: usize = 16;
/// Added to the number of the signal that ended a command, as shells do.
const SIGNALLED: i32 = 128;
/// Nobody reads its output any more, of which a command in a pipeline dies (128 + SIGPIPE).
const READER_GONE: u8 = 141;

/// Run a command in a fresh sandbox: no network, no files but those of the system and what is given here
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep exec ls -la /usr
  skep exec sh -c 'id; ls /usr'
  skep exec --lang python --timeout 5s untrusted.py
  echo 'print(6 * 7)' | skep exec --lang python -
  skep exec --in data.csv --out results sh -c 'sort data.csv > /outputs/sorted.csv'
  skep exec --allow-net example.org:443 curl -s https://example.org

Options of skep come before the command. What the command prints is shown as it comes.

The exit code is the command's, or
  124      its time was up
  125      it was not run, or was stopped at another limit
  126      its program cannot be executed
  127      its program was not found
  130      it was interrupted (Ctrl-C)
  141      nobody reads its output any more (| head)
  128 + N  signal N ended it")]
pub(super) struct Arguments {
    /// The first word is a program in this language (a file, or `-` for standard input), the rest are its arguments
    #[arg(long, value_enum)]
    lang: Option<Lang>,
    /// Deadline, such as 500ms, 30s or 2m; a plain number is seconds
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = Span::more_than_zero)]
    timeout: Span,
    /// Most memory that all its processes hold together, such as 64M or 2G; a plain number is MiB
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = Size::or_mebibytes)]
    memory: Size,
    /// A host that it may connect to, with the port; private networks only as far as web.allow_hosts lists them
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<String>,
    /// A file that it finds under the same name in its working directory, /tmp
    #[arg(long = "in", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Directory to which the files are written that it leaves in /outputs
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Directory that it sees read-only as /workspace, and starts in
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// A variable of its environment
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it standard input; it is read to its end first
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Pass on what it prints as it is, also to a terminal, which obeys control characters in it
    #[arg(long)]
    raw: bool,
    /// Print how it ended and what it left as JSON, and exit with 0 if it was run
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lang {
    Python,
    #[value(alias = "js")]
    Javascript,
    Bash,
    Sh,
}

impl Lang {
    /// The interpreter, and the name that a program is given.
    fn words(self) -> [&'static str; 2] {
        match self {
            Lang::Python => ["python3", "main.py"],
            Lang::Javascript => ["node", "main.js"],
            Lang::Bash => ["bash", "main.sh"],
            Lang::Sh => ["sh", "main.sh"],
        }
    }
}

pub(super) async fn exec(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides::default())?;
    let mut request = request(&arguments)?;
    let mut config = skep_sandbox::Config::default();
    if let Some(path) = &arguments.workspace {
        let workspace = hub::workspace(&settings, path)?;
        config = sandboxed::config(&workspace, &workspace);
        config.binds.retain(|bind| bind.target == Path::new(WORKSPACE_INSIDE));
    }
    settings.sandbox.apply(&mut config);
    request.min_tier = settings.sandbox.least_tier();
    // One command has no use for an interpreter that waits for the next.
    config.warm_max = 0;
    config.gate = Some(net::gate(&settings.web));
    let outputs =
        arguments.out.as_deref().map(Dir::create).transpose().context("cannot make the directory of --out")?;
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let shown = (!arguments.json).then(|| {
        let (sink, pieces) = mpsc::channel(PIECES_MAX);
        request.sink = Some(sink);
        // On a thread of its own: a reader that is slow must not hold the deadline up.
        let (stop, is_raw) = (stop.clone(), arguments.raw);
        tokio::task::spawn_blocking(move || show(pieces, is_raw).inspect_err(|_| stop.cancel()))
    });
    let ran = async { Sandbox::start(config).await?.run(request, stop).await };
    let ran = ran.await;
    let gone = match shown {
        Some(shown) => is_gone(shown.await?)?,
        None => false,
    };
    let outcome = match ran {
        Ok(outcome) => outcome,
        Err(error) => return Ok(not_run(&error)),
    };
    if let Some(outputs) = outputs {
        let outputs = Outputs::new(outputs, "");
        for file in &outcome.outputs {
            outputs
                .write(&file.path, &file.bytes)
                .map_err(|error| anyhow::anyhow!("{}: {error}", file.path.display()))?;
        }
    }
    if arguments.json {
        print(&format!("{:#}\n", describe(&outcome)))?;
        return Ok(ExitCode::SUCCESS);
    }
    explain(&outcome, arguments.out.is_some(), gone);
    Ok(if gone { ExitCode::from(READER_GONE) } else { exit_code(outcome.end) })
}

/// Say why nothing was run.
fn not_run(error: &Error) -> ExitCode {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    say!("skep: {error}{source}");
    match error {
        Error::Unexecuted { found: true, .. } => return ExitCode::from(NOT_EXECUTABLE),
        Error::Unexecuted { found: false, .. } => return ExitCode::from(NOT_FOUND),
        Error::Unavailable { .. } => say!("skep: `skep doctor` says more"),
        _ => (),
    }
    ExitCode::from(NOT_RUN)
}

fn request(arguments: &Arguments) -> anyhow::Result<Request> {
    let mut left = GIVEN_BYTES_MAX;
    let mut files = Vec::new();
    for path in &arguments.files {
        let name = path.file_name().with_context(|| format!("--in {}: this is not a file", path.display()))?;
        let bytes = read_file(path, &mut left).with_context(|| format!("--in {}", path.display()))?;
        files.push(InFile { path: name.into(), bytes });
    }
    let run = match arguments.lang {
        None => Run::Argv(arguments.command.clone()),
        Some(lang) => program(lang, &arguments.command, &mut files, &mut left)?,
    };
    let from_input = arguments.lang.is_some() && arguments.command[0] == "-";
    ensure!(!(arguments.stdin && from_input), "the program comes from standard input, so there is none left for it");
    let mut request = Request::new(run);
    request.files = files;
    if arguments.stdin {
        request.stdin = read(io::stdin(), &mut left)?;
    }
    for variable in &arguments.env {
        let (name, value) =
            variable.split_once('=').with_context(|| format!("--env {variable}: NAME=VALUE is expected"))?;
        request.env.push((name.to_owned(), value.to_owned()));
    }
    request.limits.wall = arguments.timeout.0;
    // One process may compute for as long as the command may take.
    request.limits.cpu = request.limits.cpu.max(request.limits.wall);
    request.limits.memory = arguments.memory.bytes;
    request.cwd = arguments.workspace.as_ref().map(|_| WORKSPACE_INSIDE.into());
    if !arguments.allow_net.is_empty() {
        request.net = Net::Allow(arguments.allow_net.clone());
    }
    Ok(request)
}

/// A program in a language: alone it is handed over as code, with arguments it is a file.
fn program(lang: Lang, words: &[OsString], files: &mut Vec<InFile>, left: &mut u64) -> anyhow::Result<Run> {
    let (path, arguments) = (&words[0], &words[1..]);
    let bytes = match path.to_str() {
        Some("-") => read(io::stdin(), left)?,
        _ => {
            let what = || format!("{} (code itself goes to standard input, with `-` here)", Path::new(path).display());
            read_file(path.as_ref(), left).with_context(what)?
        }
    };
    let [interpreter, name] = lang.words();
    if !arguments.is_empty() {
        files.push(InFile { path: name.into(), bytes });
        let argv = [interpreter.into(), format!("/tmp/{name}").into()].into_iter().chain(arguments.iter().cloned());
        return Ok(Run::Argv(argv.collect()));
    }
    let code =
        String::from_utf8(bytes).with_context(|| format!("{} is not text in UTF-8", Path::new(path).display()))?;
    Ok(match lang {
        Lang::Python => Run::Python(code),
        Lang::Javascript => Run::JavaScript(code),
        Lang::Bash => Run::Bash(code),
        Lang::Sh => Run::Shell(code),
    })
}

/// A regular file: a FIFO would be waited for, and a device may never end.
fn read_file(path: &Path, left: &mut u64) -> anyhow::Result<Vec<u8>> {
    let bytes = document::read_bytes(path, GIVEN_BYTES_MAX).map_err(anyhow::Error::msg)?;
    read(bytes.as_slice(), left)
}

fn read(from: impl io::Read, left: &mut u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(*left + 1).read_to_end(&mut bytes)?;
    match left.checked_sub(bytes.len() as u64) {
        Some(rest) => *left = rest,
        None => bail!("more than {GIVEN_BYTES_MAX} bytes cannot be given to a command; show it a directory with -C"),
    }
    Ok(bytes)
}

/// Write what a command prints as it comes, until it has ended. The one place where it is written.
fn show(mut pieces: mpsc::Receiver<Piece>, is_raw: bool) -> io::Result<()> {
    let (mut out, mut err) = (Screen::new(io::stdout(), is_raw), Screen::new(io::stderr(), is_raw));
    while let Some(Piece { stream, bytes }) = pieces.blocking_recv() {
        let to: &mut dyn io::Write = match stream {
            Stream::Stdout => &mut out,
            Stream::Stderr => &mut err,
        };
        to.write_all(&bytes)?;
        to.flush()?;
    }
    out.finish()?;
    err.finish()
}

/// Whether writing failed because the reader has gone (`| head`), which is no error.
fn is_gone(written: io::Result<()>) -> io::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error),
    }
}

/// Say on standard error what a person should know beside what the command printed.
fn explain(outcome: &Outcome, kept: bool, gone: bool) {
    match outcome.end {
        End::Exit(_) | End::Signal(_) => (),
        End::Timeout => say!("skep: its time was up"),
        End::OutputLimit => say!("skep: it printed more than allowed"),
        End::MemoryLimit => say!("skep: it used more memory than allowed"),
        End::Cancelled if gone => (),
        End::Cancelled => say!("skep: it was stopped"),
    }
    for connection in &outcome.connections {
        if let Err(why) = &connection.connected {
            say!("skep: it was kept from connecting: {}", line(why));
        }
    }
    for (path, why) in &outcome.skipped {
        say!("skep: /outputs/{} was not kept: {}", line(&path.to_string_lossy()), line(why));
    }
    if !kept && !outcome.outputs.is_empty() {
        say!("skep: {} files in /outputs were dropped; --out DIR keeps them", outcome.outputs.len());
    }
}

fn exit_code(end: End) -> ExitCode {
    match end {
        End::Exit(code) => ExitCode::from(u8::try_from(code).unwrap_or(NOT_RUN)),
        End::Signal(signal) => ExitCode::from(u8::try_from(SIGNALLED + signal).unwrap_or(NOT_RUN)),
        End::Timeout => ExitCode::from(TIMED_OUT),
        End::OutputLimit | End::MemoryLimit => ExitCode::from(NOT_RUN),
        End::Cancelled => ExitCode::from(super::INTERRUPTED),
    }
}

fn describe(outcome: &Outcome) -> Value {
    let (end, code) = match outcome.end {
        End::Exit(code) => ("exit", Some(code)),
        End::Signal(signal) => ("signal", Some(signal)),
        End::Timeout => ("timeout", None),
        End::OutputLimit => ("output_limit", None),
        End::MemoryLimit => ("memory_limit", None),
        End::Cancelled => ("cancelled", None),
    };
    let outputs = outcome.outputs.iter().map(
        |file| json!({ "path": file.path.to_string_lossy(), "bytes": file.bytes.len(), "executable": file.executable }),
    );
    let skipped = outcome.skipped.iter().map(|(path, why)| json!({ "path": path.to_string_lossy(), "why": why }));
    let connections = outcome.connections.iter().map(|connection| {
        let (address, refused) = match &connection.connected {
            Ok(address) => (Some(address), None),
            Err(why) => (None, Some(why)),
        };
        json!({ "host": connection.host, "port": connection.port, "address": address, "refused": refused })
    });
    json!({
        "end": end,
        "code": code,
        "stdout": text(&outcome.stdout),
        "stderr": text(&outcome.stderr),
        "truncated": outcome.truncated,
        "outputs": outputs.collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
        "connections": connections.collect::<Vec<_>>(),
        "usage": {
            "wall_ms": outcome.usage.wall.as_secs_f64() * 1e3,
            "cpu_ms": outcome.usage.cpu.as_secs_f64() * 1e3,
            "memory_peak_bytes": outcome.usage.memory_peak,
        },
        "tier": format!("{:?}", outcome.tier),
        "missing": outcome.missing.iter().map(|missing| format!("{missing:?}")).collect::<Vec<_>>(),
    })
}

/// Text as it is, anything else in base64.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}
