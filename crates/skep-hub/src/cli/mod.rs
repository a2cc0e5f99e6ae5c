//! The command line: `skep <COMMAND>`. One file a command; this one has what they share.

mod calls;
mod cancel;
mod changes;
mod check;
mod claims;
mod completions;
mod connect;
mod doctor;
mod du;
mod events;
mod exec;
mod files;
mod logs;
mod mcp_stdio;
mod memory;
mod messages;
mod plan;
mod progress;
mod prompt;
mod prune;
mod remote;
mod run;
mod runs;
mod sandbox;
mod serve;
mod servers;
mod shared;
mod show;
mod status;
mod steps;
mod sync;
mod tasks;
mod tool_page;
mod tools;
mod trust;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use skep_core::{
    run::{Run, RunId, Summary},
    task::{Summary as TaskSummary, TaskId},
};
use skep_plan::Plan;
use skep_tools::{
    document::Diagnostic,
    parts::BuiltIns,
    schema::{shorten, suggest},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{self, BadSettings, Log, LogFormat, Overrides, Settings},
    hub::Store,
    run::Archive,
    terminal::{LogWriter, print, print_message, say},
};

/// The command did what it was asked for, and the answer is no: a run failed, a check found faults.
const FAILED: u8 = 1;
/// The command line asks for something that cannot be (as clap has it).
const USAGE: u8 = 2;
/// The command was interrupted (as shells have it: 128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// Characters of a mistaken name that are repeated.
const NAME_CHARS_SHOWN: usize = 100;

/// The command line asks for something that cannot be; what.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    fn of(message: impl Into<String>) -> Usage {
        Usage(message.into())
    }
}

/// The exit code for an error that ends a command.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error
        .chain()
        .any(|cause| cause.is::<Usage>() || cause.downcast_ref::<BadSettings>().is_some_and(BadSettings::is_usage));
    ExitCode::from(if is_usage { USAGE } else { FAILED })
}

/// A hub for AI agents: shared tools, sandboxes, state and tasks behind one binary.
#[derive(Debug, Parser)]
#[command(name = "skep", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What a program brings that runs a hub.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its built-in tools.
    pub built_in: BuiltIns,
    /// Its version, and what it was built from.
    pub version: &'static str,
}

const AFTER_HELP: &str = "\
Examples:
  skep run \"search for TODO here, then count them by file\"
  skep run examples/audit.yaml
  skep serve
  skep exec --lang python untrusted.py
  skep doctor";

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Configuration file [default: ~/.config/skep/skep.toml, and ./skep.toml as far as it is trusted]
    #[arg(long, global = true, value_name = "FILE", env = "SKEP_CONFIG")]
    config: Option<PathBuf>,
    /// State directory: database, runs and their outputs [default: ~/.local/share/skep]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Database: sqlite:PATH or postgresql://… [default: skep.db in the state directory]
    #[arg(long, global = true, value_name = "ADDRESS")]
    database: Option<String>,
    /// Redis beside a PostgreSQL that hubs share: redis://…, rediss://…, redis+sentinel://…, redis+cluster://…
    #[arg(long, global = true, value_name = "ADDRESS")]
    redis: Option<String>,
    #[arg(skip)]
    built_in: Option<BuiltIns>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Resume(run::ResumeArguments),
    Retry(run::RetryArguments),
    Cancel(cancel::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Runs(runs::Arguments),
    Show(show::Arguments),
    Logs(logs::Arguments),
    Events(events::Arguments),
    Du(du::Arguments),
    Prune(prune::Arguments),
    Tools(tools::Arguments),
    Call(tools::CallArguments),
    Servers(servers::Arguments),
    Files(files::Arguments),
    Claims(claims::Arguments),
    History(changes::HistoryArguments),
    Diff(changes::DiffArguments),
    Undo(changes::UndoArguments),
    Memory(memory::Arguments),
    Messages(messages::Arguments),
    Steps(steps::Arguments),
    Sync(sync::Arguments),
    Tasks(Box<tasks::Arguments>),
    Prompt(prompt::Arguments),
    Serve(serve::Arguments),
    Exec(exec::Arguments),
    Sandbox(sandbox::Arguments),
    McpStdio(mcp_stdio::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Trust(trust::Arguments),
    Connect(connect::Arguments),
    Disconnect(connect::DisconnectArguments),
    Completions(completions::Arguments),
    Man(completions::ManArguments),
}

/// Do what the command line of this process says. It is here and not in the program, because a future is compiled where
/// it is first polled: the program would compile all commands, and each time anew.
pub fn main(program: Program) -> ExitCode {
    let arguments = Cli::command().long_version(program.version).get_matches();
    let mut cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.exit());
    cli.common.built_in = Some(program.built_in);
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli.execute()));
    done.unwrap_or_else(|error| {
        print_message(format_args!("skep: {error:#}"));
        exit_code(&error)
    })
}

impl Cli {
    async fn execute(self) -> anyhow::Result<ExitCode> {
        let Cli { common, command } = self;
        match command {
            Command::Run(arguments) => run::run(common, arguments).await,
            Command::Resume(arguments) => run::resume(common, arguments).await,
            Command::Retry(arguments) => run::retry(common, arguments).await,
            Command::Cancel(arguments) => cancel::cancel(common, arguments).await,
            Command::Check(arguments) => check::check(common, arguments),
            Command::Plan(arguments) => plan::plan(common, arguments).await,
            Command::Runs(arguments) => runs::runs(common, arguments).await,
            Command::Show(arguments) => show::show(common, arguments).await,
            Command::Logs(arguments) => logs::logs(common, arguments).await,
            Command::Events(arguments) => events::events(common, arguments).await,
            Command::Du(arguments) => du::du(common, arguments).await,
            Command::Prune(arguments) => prune::prune(common, arguments).await,
            Command::Tools(arguments) => tools::tools(common, arguments).await,
            Command::Call(arguments) => tools::call(common, arguments).await,
            Command::Prompt(arguments) => prompt::prompt(common, arguments).await,
            Command::Servers(arguments) => servers::servers(common, arguments).await,
            Command::Files(arguments) => files::files(common, arguments).await,
            Command::Claims(arguments) => claims::claims(common, arguments).await,
            Command::History(arguments) => changes::history(common, arguments).await,
            Command::Diff(arguments) => changes::diff(common, arguments).await,
            Command::Undo(arguments) => changes::undo(common, arguments).await,
            Command::Memory(arguments) => memory::memory(common, arguments).await,
            Command::Messages(arguments) => messages::messages(common, arguments).await,
            Command::Steps(arguments) => steps::steps(common, arguments).await,
            Command::Sync(arguments) => sync::sync(common, arguments).await,
            Command::Tasks(arguments) => tasks::tasks(common, *arguments).await,
            Command::Serve(arguments) => serve::serve(common, arguments).await,
            Command::Exec(arguments) => exec::exec(common, arguments).await,
            Command::Sandbox(arguments) => sandbox::sandbox(common, arguments).await,
            Command::McpStdio(arguments) => mcp_stdio::serve(common, arguments).await,
            Command::Status(arguments) => status::status(common, arguments).await,
            Command::Doctor(arguments) => doctor::doctor(common, arguments).await,
            Command::Trust(arguments) => trust::trust(common, arguments),
            Command::Connect(arguments) => connect::connect(common, arguments),
            Command::Disconnect(arguments) => connect::disconnect(common, arguments),
            Command::Completions(arguments) => completions::completions(&arguments),
            Command::Man(arguments) => completions::man(&arguments),
        }
    }
}

impl Common {
    /// Reads the same settings again, with what their user should know.
    fn again(
        &self,
        overrides: &Overrides,
    ) -> impl Fn() -> Result<(Settings, Vec<Diagnostic>), BadSettings> + Send + use<> {
        let (config, overrides) = (self.config.clone(), self.overrides(overrides.clone()));
        move || Settings::load(config.as_deref(), overrides.clone())
    }

    fn overrides(&self, more: Overrides) -> Overrides {
        let Common { home, database, redis, built_in, .. } = self.clone();
        Overrides { home, database, redis, built_in, ..more }
    }

    /// The state directory, whatever a file in the current directory says.
    fn home_without_found(&self) -> Result<PathBuf, BadSettings> {
        config::home_without_found(self.config.as_deref(), self.overrides(Overrides::default()))
    }

    /// The settings: file, environment, and these flags on top.
    fn settings(self, overrides: Overrides) -> anyhow::Result<Settings> {
        let (settings, notices) = Settings::load(self.config.as_deref(), self.overrides(overrides))?;
        for notice in notices {
            say!("{notice}");
        }
        start_log(&settings.log)?;
        Ok(settings)
    }
}

/// The log goes to standard error, so that standard output is the answer's alone.
fn start_log(log: &Log) -> anyhow::Result<()> {
    /// Calls of a hub have a line each; no other command has that target.
    const LEVEL: &str = "warn,skep::calls=info";
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

/// The word for the newest run.
const NEWEST: &str = "newest";

/// The run that a person means: its name, the unambiguous end of it, or none or `newest` for the newest.
async fn find_run(store: &Store, named: Option<&str>) -> anyhow::Result<Run> {
    let named = [named.unwrap_or(NEWEST).to_owned()];
    let id = find_runs(store, &named).await?.remove(0);
    let run = store.app.db.run(&store.permit.to_read(), &id).await?;
    run.with_context(|| format!("run {} is gone", id.0))
}

/// The same for several, in this order.
async fn find_runs(store: &Store, named: &[String]) -> anyhow::Result<Vec<RunId>> {
    let runs = Archive::of(store).all().await?;
    named.iter().map(|named| meant(&runs, named)).collect()
}

/// The plan that a run was started with.
fn stored_plan(run: &Run) -> anyhow::Result<Plan> {
    let plan = run.plan.parse().map_err(|error| error.to_string()).and_then(|plan| Plan::from_json(&plan));
    plan.map_err(anyhow::Error::msg).context("the stored plan cannot be read")
}

/// The one of these runs that is meant, of all there are, newest first.
fn meant(runs: &[Summary], named: &str) -> anyhow::Result<RunId> {
    const SHOWN_MAX: usize = 5;
    if named == NEWEST {
        let newest = runs.first().context("there is no run yet; start one with `skep run`")?;
        return Ok(newest.id.clone());
    }
    if let Some(run) = runs.iter().find(|run| run.id.0 == named) {
        return Ok(run.id.clone());
    }
    let named = named.to_lowercase();
    let ends_so: Vec<&Summary> = runs.iter().filter(|run| !named.is_empty() && run.id.0.ends_with(&named)).collect();
    let shown = shorten(&named, NAME_CHARS_SHOWN);
    match ends_so.as_slice() {
        [run] => Ok(run.id.clone()),
        [] => anyhow::bail!("there is no run {shown:?}; `skep runs` lists them"),
        several => {
            let names: Vec<&str> = several.iter().take(SHOWN_MAX).map(|run| run.id.0.as_str()).collect();
            let more = if several.len() > SHOWN_MAX { ", …" } else { "" };
            anyhow::bail!("{} runs end in {shown:?}: {}{more}; give more of the name", several.len(), names.join(", "))
        }
    }
}

/// A number of things to show.
fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be a whole number, 1 or more".to_owned())
}

/// A length of time in a list.
fn time_for_people(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        seconds @ 60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of bytes in a list.
fn bytes_for_people(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut amount = bytes as f64;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// There is no task of this name in the run, and which one may have been meant.
fn no_such_task<'a>(run: &RunId, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> anyhow::Error {
    const SHOWN_MAX: usize = 12;
    let help = suggest(name, known.clone()).unwrap_or_else(|| {
        let names: Vec<&str> = known.clone().take(SHOWN_MAX).collect();
        let more = if known.count() > SHOWN_MAX { ", …" } else { "" };
        format!("its tasks are {}{more}", names.join(", "))
    });
    anyhow::anyhow!("run {} has no task {:?}; {help}", run.0, shorten(name, NAME_CHARS_SHOWN))
}

/// The task of a run that is called so.
fn task_named<'a>(run: &RunId, name: &str, tasks: &'a [TaskSummary]) -> anyhow::Result<&'a TaskId> {
    let task = tasks.iter().find(|task| task.name() == name);
    task.map(|task| &task.id).ok_or_else(|| no_such_task(run, name, tasks.iter().map(TaskSummary::name)))
}

/// A token that is cancelled by Ctrl-C or by a request to terminate. A second one ends the process at once.
fn stop_on_signal(tasks: &mut tokio::task::JoinSet<()>) -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopping = stop.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if stopping.is_cancelled() {
                std::process::exit(i32::from(INTERRUPTED)); // whatever runs in a sandbox dies with this process
            }
            say!("stopping; once more to stop at once");
            stopping.cancel();
        }
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use skep_core::{Timestamp, run::State};

    use super::*;

    #[test]
    fn a_run_is_found_by_its_name_or_an_end_that_only_it_has() {
        let run = |id: &str| Summary {
            id: RunId(id.to_owned()),
            name: String::new(),
            directory: String::new(),
            state: State::Completed,
            created: Timestamp(0),
            ended: None,
        };
        let runs = ["01xyz999999", "01abc999999", "999999"].map(run);
        let found = |named: &str| meant(&runs, named).map(|id| id.0).map_err(|error| error.to_string());
        assert_eq!(found("newest").as_deref(), Ok("01xyz999999"));
        assert_eq!(found("999999").as_deref(), Ok("999999"), "a whole name counts more than the end of another");
        assert_eq!(found("C999999").as_deref(), Ok("01abc999999"));
        assert!(found("9").unwrap_err().contains("3 runs end in \"9\": 01xyz999999, 01abc999999"));
        assert!(found("nine").unwrap_err().contains("there is no run \"nine\""));
        assert!(found("").is_err());
        assert!(meant(&[], "newest").unwrap_err().to_string().contains("no run yet"));
    }

    #[test]
    fn times_and_bytes_are_short_and_say_their_unit() {
        for (ms, text) in
            [(999, "999 ms"), (1500, "1.5 s"), (61_000, "1m 01s"), (3_660_000, "1h 01m"), (90_000_000, "1d 01h")]
        {
            assert_eq!(time_for_people(Duration::from_millis(ms)), text);
        }
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes_for_people(bytes), text);
        }
    }
}
