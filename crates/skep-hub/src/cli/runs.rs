//! `skep runs`: the list of runs, and deleting some of them.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use skep_core::{
    Timestamp,
    db::TaskCounts,
    retention::{Kept, Selection},
    run::{State, Summary, short_names},
};
use skep_tools::duration::Span;

use super::{Common, FAILED, at_least_one, bytes_for_people, find_runs, print, time_for_people};
use crate::{
    config::Overrides,
    events::rfc3339,
    hub::Store,
    run::{Archive, now},
    terminal::{line, say},
};

/// List the runs, newest first, or delete some
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  skep runs --state failed
  skep runs rm 4k2p9x
  skep runs prune --older-than 30d --dry-run"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the runs, newest first
    Ls(ListArguments),
    /// Show what became of a run: `skep show`
    Show(super::show::Arguments),
    /// Show what has happened in a run: `skep logs`
    Logs(super::logs::Arguments),
    Rm(RmArguments),
    Prune(PruneArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// How many
    #[arg(long, default_value = "20", value_name = "N", value_parser = at_least_one)]
    limit: usize,
    /// Only those in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    state: Vec<StateName>,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Delete runs with everything that they have left
///
/// A run that somebody works on is not deleted; `skep cancel` stops it.
#[derive(Debug, Args)]
struct RmArguments {
    /// The runs, or the ends of their names
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Delete runs that are over, by number, age or state; without any of them, what the settings keep no longer (run.keep)
///
/// A run that somebody works on is never deleted. One that was interrupted is only deleted with --state interrupted, or
/// when it is older than the settings keep runs.
#[derive(Debug, Args)]
struct PruneArguments {
    /// Keep the newest N runs
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Only runs that ended longer ago than this: 12h, 30d
    #[arg(long, value_name = "TIME")]
    older_than: Option<Span>,
    /// Only runs in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    state: Vec<StateName>,
    /// Show what would be deleted, and delete nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A state, as it is written on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateName {
    Running,
    Interrupted,
    Completed,
    Failed,
    Cancelled,
}

impl From<StateName> for State {
    fn from(name: StateName) -> State {
        match name {
            StateName::Running => State::Running,
            StateName::Interrupted => State::Interrupted,
            StateName::Completed => State::Completed,
            StateName::Failed => State::Failed,
            StateName::Cancelled => State::Cancelled,
        }
    }
}

pub(super) async fn runs(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        None => list(common, arguments.list).await,
        Some(Command::Ls(arguments)) => list(common, arguments).await,
        Some(Command::Show(arguments)) => super::show::show(common, arguments).await,
        Some(Command::Logs(arguments)) => super::logs::logs(common, arguments).await,
        Some(Command::Rm(arguments)) => remove(common, arguments).await,
        Some(Command::Prune(arguments)) => prune(common, arguments).await,
    }
}

/// A run in the list.
struct Listed {
    run: Summary,
    short: String,
    took: Duration,
    counts: TaskCounts,
}

async fn list(common: Common, arguments: ListArguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let all = Archive::of(&store).all().await?;
    let short = short_names(&all.iter().map(|run| &run.id).collect::<Vec<_>>());
    let states: Vec<State> = arguments.state.iter().copied().map(State::from).collect();
    let is_wanted = |(run, _): &(Summary, String)| states.is_empty() || states.contains(&run.state);
    let mut listed = Vec::new();
    for (run, short) in all.into_iter().zip(short).filter(is_wanted).take(arguments.limit) {
        let took = took(&store, &run).await?;
        let counts = store.app.db.count_tasks(&store.permit.to_read(), &run.id).await?;
        listed.push(Listed { run, short, took, counts });
    }
    let text = match arguments.json {
        true => listed.iter().map(|run| to_json(run) + "\n").collect(),
        false if listed.is_empty() && states.is_empty() => "no runs yet; start one with `skep run`\n".to_owned(),
        false if listed.is_empty() => "no runs in this state\n".to_owned(),
        false => table(&listed),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How long a run took, or has taken until now, or until it was cut off.
async fn took(store: &Store, run: &Summary) -> anyhow::Result<Duration> {
    let end = match (run.ended, run.state) {
        (Some(ended), _) => ended,
        (None, State::Running) => now(),
        (None, _) => store.app.db.last_event_of(&store.permit.to_read(), &run.id).await?.unwrap_or(run.created),
    };
    Ok(between(run.created, end))
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(to.0 - from.0).unwrap_or(0))
}

fn to_json(Listed { run, short, took, counts }: &Listed) -> String {
    json!({
        "run": run.id.0,
        "short": short,
        "name": run.name,
        "state": run.state.name(),
        "created": rfc3339(run.created),
        "ended": run.ended.map(rfc3339),
        "duration_ms": took.as_secs_f64() * 1e3,
        "tasks": counts.all(),
        "tasks_completed": counts.completed,
        "directory": run.directory,
    })
    .to_string()
}

fn table(runs: &[Listed]) -> String {
    let width = runs.iter().map(|run| run.short.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:19}  {:>8}  {:11}  {:>7}  NAME\n", "RUN", "STARTED", "TOOK", "STATE", "TASKS");
    for Listed { run, short, took, counts } in runs {
        let (started, took, state) = (local_time(run.created), time_for_people(*took), run.state.name());
        let tasks = format!("{}/{}", counts.completed, counts.all());
        text += &format!("{short:width$}  {started}  {took:>8}  {state:11}  {tasks:>7}  {}\n", line(&run.name));
    }
    text
}

/// The local date and time, to the second.
fn local_time(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

async fn remove(common: Common, arguments: RmArguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let wanted = find_runs(&store, &arguments.runs).await?;
    let measured = Archive::of(&store).measured().await?;
    let runs: Vec<&Kept> = measured.iter().filter(|kept| wanted.contains(&kept.run.id)).collect();
    delete(&store, &runs, arguments.yes).await
}

async fn prune(common: Common, arguments: PruneArguments) -> anyhow::Result<ExitCode> {
    let PruneArguments { keep, older_than, state, dry_run, yes } = arguments;
    let store = Store::open(common.settings(Overrides::default())?).await?;
    if !dry_run {
        Archive::of(&store).finish_deletions().await?;
    }
    let measured = Archive::of(&store).measured().await?;
    let runs = match (keep, older_than, state.is_empty()) {
        (None, None, true) => store.settings.keep.superfluous(&measured, now()),
        _ => {
            let states = state.into_iter().map(State::from).collect();
            let selection = Selection { keep: keep.unwrap_or(0), age_min: older_than.map(|span| span.0), states };
            selection.of(&measured, now())
        }
    };
    if runs.is_empty() {
        print("nothing to delete\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if dry_run {
        print(&(listing(&runs) + &format!("{} would be deleted\n", sum(&runs))))?;
        return Ok(ExitCode::SUCCESS);
    }
    delete(&store, &runs, yes).await
}

/// Delete these runs, after asking on a terminal. What cannot be deleted is said, and the others are.
async fn delete(store: &Store, runs: &[&Kept], is_agreed: bool) -> anyhow::Result<ExitCode> {
    if !is_agreed {
        if !std::io::stdin().is_terminal() {
            anyhow::bail!("{} would be deleted; confirm with --yes", sum(runs));
        }
        print(&listing(runs))?;
        say!("delete {}? [y/N]", sum(runs));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("no answer")?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            say!("nothing was deleted");
            return Ok(ExitCode::from(FAILED));
        }
    }
    let (archive, mut deleted, mut has_failed) = (Archive::of(store), Vec::new(), false);
    for kept in runs {
        match archive.delete(&kept.run.id).await {
            Ok(()) => deleted.push(*kept),
            Err(error) => {
                has_failed = true;
                say!("skep: {:#}", anyhow::Error::from(error));
            }
        }
    }
    print(&format!("deleted {}\n", sum(&deleted)))?;
    Ok(if has_failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn listing(runs: &[&Kept]) -> String {
    let line = |kept: &&Kept| {
        let Kept { run, bytes } = kept;
        let bytes = bytes_for_people(*bytes);
        format!("{}  {}  {:11}  {bytes:>9}  {}\n", run.id.0, local_time(run.created), run.state.name(), line(&run.name))
    };
    runs.iter().map(line).collect()
}

/// How many they are, and what they take.
fn sum(runs: &[&Kept]) -> String {
    let bytes = bytes_for_people(runs.iter().map(|kept| kept.bytes).sum());
    match runs.len() {
        1 => format!("1 run ({bytes})"),
        count => format!("{count} runs ({bytes})"),
    }
}
