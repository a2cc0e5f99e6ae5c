//! The command line: `skep <COMMAND>`. One file a command; this one has what they share.

mod check;
mod doctor;
mod exec;
mod logs;
mod mcp_stdio;
mod progress;
mod prompt;
mod run;
mod runs;
mod sandbox;
mod serve;
mod servers;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use skep_core::run::{Run, RunId};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{BadSettings, Log, LogFormat, Overrides, Settings},
    hive::Hive,
    schema::{shorten, suggest},
    terminal::{LogWriter, print, say},
};

/// The command did what it was asked for, and the answer is no: a run failed, a check found faults.
const FAILED: u8 = 1;
/// The command was interrupted (as shells have it: 128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// Characters of a mistaken name that are repeated.
const NAME_CHARS_SHOWN: usize = 100;

/// A hive for AI agents: shared tools, sandboxes, state and tasks behind one binary.
#[derive(Debug, Parser)]
#[command(name = "skep", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  skep run \"search for TODO here, then count them by file\"
  skep run examples/audit.yaml
  skep serve
  skep exec --lang python -- untrusted.py
  skep doctor";

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Configuration file [default: ./skep.toml, then ~/.config/skep/skep.toml]
    #[arg(long, global = true, value_name = "FILE", env = "SKEP_CONFIG")]
    config: Option<PathBuf>,
    /// State directory: database, runs and their outputs [default: ~/.local/share/skep]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Database: sqlite:PATH or postgresql://… [default: skep.db in the state directory]
    #[arg(long, global = true, value_name = "ADDRESS")]
    database: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Resume(run::ResumeArguments),
    Check(check::Arguments),
    Runs(runs::Arguments),
    Show(runs::ShowArguments),
    Logs(logs::Arguments),
    Tools(tools::Arguments),
    Call(tools::CallArguments),
    Servers(servers::Arguments),
    Prompt(prompt::Arguments),
    Serve(serve::Arguments),
    Exec(exec::Arguments),
    Sandbox(sandbox::Arguments),
    McpStdio(mcp_stdio::Arguments),
    Doctor(doctor::Arguments),
}

impl Cli {
    /// Do what the command line says.
    pub async fn execute(self) -> anyhow::Result<ExitCode> {
        let Cli { common, command } = self;
        match command {
            Command::Run(arguments) => run::run(common, arguments).await,
            Command::Resume(arguments) => run::resume(common, arguments).await,
            Command::Check(arguments) => check::check(common, arguments),
            Command::Runs(arguments) => runs::runs(common, arguments).await,
            Command::Show(arguments) => runs::show(common, arguments).await,
            Command::Logs(arguments) => logs::logs(common, arguments).await,
            Command::Tools(arguments) => tools::tools(common, arguments).await,
            Command::Call(arguments) => tools::call(common, arguments).await,
            Command::Prompt(arguments) => prompt::prompt(common, arguments).await,
            Command::Servers(arguments) => servers::servers(common, arguments).await,
            Command::Serve(arguments) => serve::serve(common, arguments).await,
            Command::Exec(arguments) => exec::exec(common, arguments).await,
            Command::Sandbox(arguments) => sandbox::sandbox(common, arguments).await,
            Command::McpStdio(arguments) => mcp_stdio::serve(common, arguments).await,
            Command::Doctor(arguments) => doctor::doctor(common, arguments).await,
        }
    }
}

impl Common {
    /// Reads the same settings again, without a word.
    fn again(&self, overrides: &Overrides) -> impl Fn() -> Result<Settings, BadSettings> + Send + use<> {
        let (config, home, database) = (self.config.clone(), self.home.clone(), self.database.clone());
        let overrides = Overrides { home, database, ..overrides.clone() };
        move || Settings::load(config.as_deref(), overrides.clone()).map(|(settings, _)| settings)
    }

    /// The settings: file, environment, and these flags on top.
    fn settings(self, overrides: Overrides) -> anyhow::Result<Settings> {
        let overrides = Overrides { home: self.home, database: self.database, ..overrides };
        let (settings, notices) = Settings::load(self.config.as_deref(), overrides)?;
        for notice in notices {
            say!("{notice}");
        }
        start_log(&settings.log)?;
        Ok(settings)
    }
}

/// The log goes to standard error, so that standard output is the answer's alone.
fn start_log(log: &Log) -> anyhow::Result<()> {
    const LEVEL: &str = "warn";
    let level = log.level.as_deref().unwrap_or(LEVEL);
    let filter =
        EnvFilter::try_new(level).with_context(|| format!("log.level: {level:?} is not a level or a filter"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| LogWriter);
    // A second start, in a test, changes nothing.
    let _ = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    Ok(())
}

/// The run that a person means: its name, the unambiguous end of it, or none for the newest.
async fn find_run(hive: &Hive, named: Option<&str>) -> anyhow::Result<Run> {
    const LOOKED_AT_MAX: usize = 1000;
    let runs = hive.app.db.runs(hive.namespace(), None, LOOKED_AT_MAX).await?;
    let Some(named) = named else {
        return runs
            .into_iter()
            .next()
            .ok_or_else(|| anyhow::anyhow!("there is no run yet; start one with `skep run`"));
    };
    if let Some(run) = hive.app.db.run(hive.namespace(), &RunId(named.to_owned())).await? {
        return Ok(run);
    }
    let mut meant = runs.into_iter().filter(|run| run.id.0.ends_with(named));
    match (meant.next(), meant.next()) {
        (Some(run), None) => Ok(run),
        (Some(_), Some(_)) => anyhow::bail!("{named} may be one of several runs; give more of its name"),
        (None, _) => anyhow::bail!("there is no run {named}; `skep runs` lists them"),
    }
}

/// There is no task of this name in the run, and which one may have been meant.
fn no_such_task<'a>(run: &RunId, name: &str, known: impl Iterator<Item = &'a String> + Clone) -> anyhow::Error {
    const SHOWN_MAX: usize = 12;
    let help = suggest(name, known.clone().map(String::as_str)).unwrap_or_else(|| {
        let names: Vec<&str> = known.clone().take(SHOWN_MAX).map(String::as_str).collect();
        let more = if known.count() > SHOWN_MAX { ", …" } else { "" };
        format!("its tasks are {}{more}", names.join(", "))
    });
    anyhow::anyhow!("run {} has no task {:?}; {help}", run.0, shorten(name, NAME_CHARS_SHOWN))
}

/// A token that is rung by Ctrl-C or by a request to terminate. A second one ends the process at once.
fn stop_on_signal(tasks: &mut tokio::task::JoinSet<()>) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let rung = stop.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if rung.is_cancelled() {
                std::process::exit(i32::from(INTERRUPTED)); // whatever runs in a sandbox dies with this process
            }
            say!("stopping; once more to stop at once");
            rung.cancel();
        }
    });
    Ok(stop)
}
