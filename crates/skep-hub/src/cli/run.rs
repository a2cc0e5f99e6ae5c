//! `skep run` and `skep resume`.

use std::{
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::{Either, select};
use serde_json::json;
use skep_core::run::{Run, RunId, State};
use skep_plan::{Plan, Step};
use skep_tools::{document::Diagnostic, workspace::Dir};
use tokio::task::JoinSet;

use super::{
    Common, FAILED, INTERRUPTED, Usage, find_run, print,
    progress::{Follow, Live, Show, Style},
    say,
    shared::Local,
    stop_on_signal, stored_plan, task_named,
};
use crate::{
    config::Overrides,
    hub::{self, Callers, Hub, Store, catalogue::Catalogue},
    run::{self, Archive, Ended, Names, Report, Swarm},
    state::RunDirectory,
    terminal, worker,
};

/// How long a model may take to write a plan, corrections included.
const PLANNING_TIME_MAX: Duration = Duration::from_secs(300);

/// Characters that are shown of what a step is about.
const MEANING_CHARS_MAX: usize = 100;

/// Let a swarm work through a plan file, or through what a sentence says
///
/// A plan is a YAML file: tasks, the tools they call, and what depends on what (`skep check --schema` describes it).
/// Of sentences a few forms are understood: search for, list, read, fetch, run `…`, count, save; joined by commas, "and"
/// and "then". A model, if one is configured, understands the others. The plan is shown before it is run. Progress goes
/// to standard error, the report to standard output. The exit code is 0 only if every task that counts was completed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep run examples/audit.yaml --workspace ~/project
  skep run \"search for TODO here, then count them by file\"
  skep run \"list files, then count them by extension and save it to kinds.md\" --json")]
pub(super) struct Arguments {
    /// A plan file, or a sentence
    #[arg(required = true, value_name = "PLAN|SENTENCE")]
    what: Vec<String>,
    /// Set an input of the plan
    #[arg(long = "set", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Directory whose files the tools may read [default: the current directory]
    #[arg(long, short = 'C', value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// File that lists MCP servers whose tools may be called, too, as an MCP client writes it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Call tools on these hubs, least loaded first; locally if none answers
    #[arg(long = "hub", value_name = "URL", value_delimiter = ',')]
    hubs: Vec<String>,
    #[command(flatten)]
    local: Local,
    /// Actors that work side by side
    #[arg(long, value_name = "N")]
    actors: Option<u32>,
    /// Observers that work side by side
    #[arg(long, value_name = "N")]
    observers: Option<u32>,
    /// Show the plan that would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

/// Continue a run that was interrupted or killed; tasks that were finished are not repeated
#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// The run, or the end of its name [default: the newest]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// File that lists MCP servers whose tools may be called, too, as an MCP client writes it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Do the tasks of a run again that failed, and what was blocked or cancelled; what was completed is kept
#[derive(Debug, Args)]
pub(super) struct RetryArguments {
    /// The run, the end of its name, or `newest`
    #[arg(value_name = "RUN")]
    run: String,
    /// Only this task, and what waits for it
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// File that lists MCP servers whose tools may be called, too, as an MCP client writes it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What is shown of a run.
#[derive(Debug, Args)]
struct Output {
    /// Each event, and at the end the report, as a line of JSON on standard output
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// No progress, only the report
    #[arg(long, short)]
    quiet: bool,
    /// Write the report to this file instead of standard output (.json for JSON, otherwise Markdown)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Output {
    /// Print the report, or write it to the file that was named.
    fn report(&self, report: &Report) -> anyhow::Result<()> {
        let all = serde_json::to_value(report)?;
        if let Some(path) = &self.report {
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            let text = if is_json { format!("{all:#}\n") } else { report.markdown.clone() };
            std::fs::write(path, terminal::block(&text).as_bytes())
                .with_context(|| format!("cannot write the report to {}", path.display()))?;
        } else if !self.json {
            print(&report.markdown)?;
        }
        match self.json {
            true => print(&format!("{}\n", json!({ "kind": "report", "report": all }))),
            false => Ok(()),
        }
    }

    fn style(&self) -> Style {
        match self {
            Output { json: true, .. } => Style::Json,
            Output { quiet: true, .. } => Style::Quiet,
            _ => Style::People,
        }
    }
}

pub(super) async fn run(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { what, inputs, workspace, mcp_config, hubs, local, actors, observers, dry_run, output } = arguments;
    let named = hubs.first().cloned();
    let overrides = Overrides { workspace, mcp_config, hubs, actors, observers, ..Overrides::default() };
    let mut settings = common.settings(overrides)?;
    local.apply(named.as_deref(), &mut settings)?;
    let workspace = hub::workspace(&settings, &settings.workspace)?;
    let store = Store::open(settings).await?;
    let mut plan = understand(&what, &store, &workspace, output.quiet).await?;
    for input in &inputs {
        plan.set(input).map_err(|why| Usage::of(format!("--set: {why}")))?;
    }
    if dry_run {
        print(&format!("{:#}\n", plan.to_json()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = new_run_id();
    let directory = store.home.hold(&id)?;
    let swarm = Swarm::of(&store, &workspace, directory.outputs())?;
    let _starting = swarm.start_sandbox(&plan);
    swarm.submit(&id, &plan, &workspace).await?;
    let follow = Follow::new(&store.app, &store.permit.to_read(), &id);
    Work { store, swarm, id, plan, workspace, directory, follow }.show(&output).await
}

pub(super) async fn resume(common: Common, arguments: ResumeArguments) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { mcp_config: arguments.mcp_config.clone(), ..Overrides::default() };
    let store = Store::open(common.settings(overrides)?).await?;
    let run = find_run(&store, arguments.run.as_deref()).await?;
    if !matches!(run.state, State::Running | State::Interrupted) {
        anyhow::bail!("run {} is over ({}); `skep show {0}` shows its report", run.id.0, run.state.name());
    }
    let work = Work::take_up(store, &run).await?;
    work.store.app.resume_run(&work.store.permit, &run.id).await?;
    work.show(&arguments.output).await
}

pub(super) async fn retry(common: Common, arguments: RetryArguments) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { mcp_config: arguments.mcp_config.clone(), ..Overrides::default() };
    let store = Store::open(common.settings(overrides)?).await?;
    let run = find_run(&store, Some(&arguments.run)).await?;
    if !run.state.is_over() {
        let id = &run.id.0;
        anyhow::bail!("run {id} is not over; `skep resume {id}` continues one that was interrupted");
    }
    let work = Work::take_up(store, &run).await?;
    let tasks = run::tasks_of(&work.store.app.db, &work.store.permit.to_read(), &run.id).await?;
    let only = arguments.task.map(|name| task_named(&run.id, &name, &tasks)).transpose()?;
    work.store.app.retry_run(&work.store.permit, &run.id, only).await?;
    work.show(&arguments.output).await
}

/// The plan that is meant by the words on the command line.
async fn understand(what: &[String], store: &Store, workspace: &Dir, is_quiet: bool) -> anyhow::Result<Plan> {
    let hub = Hub::new(&store.settings, None, Callers::Process, workspace, workspace);
    let catalogue = hub.catalogue();
    match what {
        [path] if [".yaml", ".yml", ".json"].iter().any(|end| path.ends_with(end)) => {
            let loaded = skep_plan::load_for(path.as_ref(), catalogue);
            let (plan, warnings) = loaded.map_err(|faults| anyhow::anyhow!("{}", list(&faults)))?;
            if !is_quiet {
                warnings.iter().for_each(|warning| say!("{warning}"));
            }
            Ok(plan)
        }
        words => {
            let plan = for_sentence(&words.join(" "), store, catalogue).await?;
            if !is_quiet {
                plan.tasks.iter().for_each(|step| say!("  {}: {}", step.id, meaning(step)));
            }
            Ok(plan)
        }
    }
}

/// The rules first: they cost nothing and say the same every time. What they do not understand a model may.
async fn for_sentence(sentence: &str, store: &Store, catalogue: &Catalogue) -> anyhow::Result<Plan> {
    let not_understood = match skep_plan::rules::plan(sentence) {
        Ok(plan) => return Ok(plan),
        Err(error) => error,
    };
    let model = hub::model(&store.settings);
    let Ok(name) = model.name() else { return Err(not_understood.into()) };
    say!("asking {name} for a plan");
    let mut signals = JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    Ok(skep_plan::model::plan(sentence, catalogue, &model, Instant::now() + PLANNING_TIME_MAX, &stop).await?)
}

/// A step of a plan that nobody has written, in a line: what it is for, and the call that it makes.
fn meaning(step: &Step) -> String {
    let description = if step.description.is_empty() { String::new() } else { format!("{} → ", step.description) };
    terminal::short_line(&format!("{description}{} {}", step.tool, step.args), MEANING_CHARS_MAX)
}

fn list(faults: &[Diagnostic]) -> String {
    let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    format!("the plan cannot be run:{lines}")
}

/// A run that is in the store, and all that it takes to work on it.
struct Work {
    store: Store,
    swarm: Swarm,
    id: RunId,
    plan: Plan,
    workspace: Dir,
    directory: RunDirectory,
    follow: Follow,
}

impl Work {
    /// A run of which something has been done already. Its state is not changed yet.
    async fn take_up(store: Store, run: &Run) -> anyhow::Result<Work> {
        let directory = store.home.hold(&run.id)?;
        let plan = stored_plan(run)?;
        let workspace = hub::workspace(&store.settings, run.directory.as_ref())?;
        let swarm = Swarm::of(&store, &workspace, directory.outputs())?;
        let mut follow = Follow::new(&store.app, &store.permit.to_read(), &run.id);
        while !follow.look().await?.is_empty() {} // what happened before is not shown again
        Ok(Work { store, swarm, id: run.id.clone(), plan, workspace, directory, follow })
    }

    /// Work on the run, show how it goes, and print its report.
    async fn show(self, output: &Output) -> anyhow::Result<ExitCode> {
        let Work { store, mut swarm, id, plan, workspace, directory, mut follow } = self;
        let tasks = run::tasks_of(&store.app.db, &store.permit.to_read(), &id).await?;
        let finished: Vec<&str> = tasks.iter().filter(|task| task.is_over).map(|task| task.name()).collect();
        let mut signals = JoinSet::new();
        let stop = stop_on_signal(&mut signals)?;
        let (watcher, printed) = worker::printed();
        swarm.watcher = (output.style() != Style::Quiet).then_some(watcher);
        let mut live = Live::new(printed, Show::new(output.style(), &plan, &finished), Names::of(&tasks));
        let ended = {
            let work = pin!(swarm.work(&id, &plan, workspace, &directory, stop));
            let shown = pin!(live.until_over(&mut follow));
            match select(work, shown).await {
                Either::Left((ended, _)) => ended,
                Either::Right((shown, work)) => {
                    shown?;
                    work.await
                }
            }
        };
        live.look(&mut follow).await?;
        live.show.end();
        if let Ok(Ended::Over(_)) = &ended
            && let Err(error) = Archive::of(&store).keep_within(&store.settings.keep).await
        {
            say!("old runs could not be deleted (run.keep): {:#}", anyhow::Error::from(error));
        }
        store.app.db.close().await;
        let Ended::Over(report) = ended? else {
            say!("run {} was interrupted; continue with `skep resume {0}`", id.0);
            return Ok(ExitCode::from(INTERRUPTED));
        };
        output.report(&report)?;
        if output.style() == Style::People {
            let (status, took, path) = (&report.status, report.duration_ms, directory.path().display());
            say!("run {} {status} in {took:.0} ms; `skep show` shows it again, its files are in {path}", id.0);
        }
        Ok(if report.succeeded() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge makes ids")]
fn new_run_id() -> RunId {
    RunId(ulid::Ulid::generate().to_string().to_lowercase())
}
