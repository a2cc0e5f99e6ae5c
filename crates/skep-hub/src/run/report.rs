//! The report on a run: what each task did, when, by whom, and what came out; as JSON for programs, and as Markdown for
//! people by the plan's own template or a plain default.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_core::{
    Timestamp,
    app::App,
    artefact::Artefact,
    db::{Db, DbError, News},
    event::{Event, EventFilter, EventKind},
    limits::PAGE_MAX,
    policy::{Permit, Read},
    run::{self, Run, RunId},
    task::{State, Task, TaskId},
};
use skep_plan::{
    Plan, Step,
    template::{
        self, Ended, Scope,
        filters::code_block,
        renderer::{self, Bounds},
    },
};

use super::{Names, RunError, store, tasks_of};
use crate::{events::rfc3339, worker::Answer};

/// Tasks that are read at once. An answer may have some MiB.
const TASKS_PER_READ: usize = 100;
/// Characters of one answer in the default report.
const ANSWER_CHARS_MAX: usize = 2000;
/// What [`State::InProgress`] is called.
const IN_PROGRESS: &str = "in_progress";

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the run.
    pub run: String,
    /// Name of the plan.
    pub name: String,
    /// `completed`, `failed`, `running`, `interrupted`, …
    pub status: String,
    /// The workspace.
    pub directory: String,
    /// When it began, as RFC 3339.
    pub started: String,
    /// From the beginning until the last task was over, in milliseconds.
    pub duration_ms: f64,
    /// Each task, in the order of the plan.
    pub tasks: Vec<TaskReport>,
    /// Each agent and the tasks that it worked on.
    pub agents: BTreeMap<String, Vec<String>>,
    /// The files that the tasks have left.
    pub artefacts: Vec<Value>,
    /// The report for people.
    #[serde(default)]
    pub markdown: String,
}

/// What became of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Its name in the plan.
    pub id: String,
    /// Who had to do it.
    pub role: String,
    /// The tool that it called.
    pub tool: String,
    /// `completed`, `skipped`, `failed`, `blocked`, `interrupted`, …
    pub status: String,
    /// A failure of it does not fail the run.
    pub allow_failure: bool,
    /// How often it was started.
    pub attempts: u32,
    /// The agent that had it last.
    pub agent: Option<String>,
    /// Where its tool ran: `local`, or the address of a hub.
    pub place: Option<String>,
    /// From the beginning of the run to its last start, in milliseconds.
    pub started_ms: Option<f64>,
    /// From its last start to its end, in milliseconds.
    pub duration_ms: Option<f64>,
    /// The tool's answer.
    pub result: Value,
    /// Why it failed, with the end of what it printed.
    pub error: Option<String>,
    /// All that a failed call had to show for itself: a command's exit code and what it printed.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

impl Report {
    /// Every task that counts was completed or skipped.
    pub fn succeeded(&self) -> bool {
        let good = |task: &TaskReport| matches!(task.status.as_str(), "completed" | "skipped");
        self.tasks.iter().all(|task| good(task) || task.allow_failure && task.status == "failed")
    }

    /// Write the report for people: the plan's template if it has one, otherwise every answer; and how long things took.
    pub(super) async fn write_markdown(&mut self, plan: &Plan) {
        let body = match plan.report.clone() {
            None => Ok(self.answers()),
            Some(template) => renderer::text(self.scope(plan), template, &Bounds::default())
                .await
                .map(|text| format!("{}\n{}", text.trim_end(), self.failures())),
        };
        let body = match body {
            Ok(text) => text,
            Err(error) => {
                format!("{}\n> The plan's own report could not be made: {error}\n", self.answers())
            }
        };
        self.markdown = format!("{}\n{}", body.trim_end(), self.timing());
    }

    fn scope(&self, plan: &Plan) -> Scope {
        let (id, name, directory) = (self.run.clone(), self.name.clone(), self.directory.clone());
        let mut scope = Scope::new(&plan.inputs, &template::Run { id, name, directory });
        for task in &self.tasks {
            scope.ended(
                &task.id,
                &match task.status.as_str() {
                    "completed" => Ended::Completed(task.result.clone()),
                    "failed" => Ended::Failed(task.error.clone().unwrap_or_default()),
                    _ => Ended::Skipped,
                },
            );
        }
        scope
    }

    /// The answer of each task.
    fn answers(&self) -> String {
        let answer = |task: &TaskReport| format!("\n## {}\n\n{}", task.id, answer_as_markdown(task));
        format!("# {}\n{}", self.name, self.tasks.iter().map(answer).collect::<String>())
    }

    /// Why tasks failed, for reports whose template says nothing of it.
    fn failures(&self) -> String {
        let failed = self.tasks.iter().filter(|task| task.status == "failed");
        failed.map(|task| format!("\n## {}\n\n{}", task.id, answer_as_markdown(task))).collect()
    }

    /// Who did what, and how long it took.
    fn timing(&self) -> String {
        let mut text = format!("\n## Tasks\n\n{} in {}.\n\n", self.status, ms_for_people(self.duration_ms));
        text += "| task | tool | status | agent | attempts | time |\n| --- | --- | --- | --- | ---: | ---: |\n";
        for task in &self.tasks {
            let TaskReport { id, tool, status, attempts, .. } = task;
            let agent = task.agent.as_deref().unwrap_or_default();
            let time = task.duration_ms.map(ms_for_people).unwrap_or_default();
            let _ = writeln!(text, "| {id} | {tool} | {status} | {agent} | {attempts} | {time} |");
        }
        text
    }
}

fn ms_for_people(ms: f64) -> String {
    if ms < 1e3 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) }
}

/// A composed text stands for itself, printed output is quoted, all else is shown as JSON.
fn answer_as_markdown(task: &TaskReport) -> String {
    match &task.error {
        // It may quote what a command printed, which must not pass for a part of the report.
        Some(error) if error.contains('\n') => return format!("{}:\n\n{}", task.status, code_block(error, "")),
        Some(error) => return format!("{}: {error}\n", task.status),
        None => {}
    }
    if task.result.is_null() {
        return format!("{}\n", task.status);
    }
    let text = |name: &str| task.result.get(name).and_then(Value::as_str).map(str::to_owned);
    match (task.tool.as_str(), text("text"), text("stdout")) {
        ("compose", Some(out), _) | (_, _, Some(out)) if out.trim().is_empty() => "(nothing)\n".to_owned(),
        ("compose", Some(text), _) => format!("{}\n", text.trim_end()),
        (_, _, Some(stdout)) => code_block(&shortened(&stdout), ""),
        _ => code_block(&shortened(&format!("{:#}", task.result)), "json"),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(ANSWER_CHARS_MAX) {
        Some((end, _)) => format!("{}\n… ({} more bytes)", &text[..end], text.len() - end),
        None => text.trim_end().to_owned(),
    }
}

impl Report {
    /// What the store knows of a run, which stands at `state` (see `Archive::state_of`).
    pub async fn gather(
        app: &App,
        permit: &Permit<Read>,
        run: &Run,
        state: run::State,
        plan: &Plan,
    ) -> Result<Report, RunError> {
        let (id, db) = (&run.id, &app.db);
        let names = Names::of(&tasks_of(db, permit, id).await.map_err(store)?);
        let times = Times::read(app, permit, id).await.map_err(store)?;
        let tasks = task_reports(db, permit, run, state, plan, &names, &times).await.map_err(store)?;
        let artefacts = artefacts(db, permit, id).await.map_err(store)?.into_iter().map(|artefact| {
            let path = format!("outputs/{}", artefact.path);
            json!({ "task": names.get(&artefact.task), "path": path, "bytes": artefact.size, "sha256": artefact.sha256 })
        });
        let kept: Value = run.report.as_ref().and_then(|report| report.parse().ok()).unwrap_or_default();
        let mut report = Report {
            run: id.0.clone(),
            name: plan.name.clone(),
            status: state.name().to_owned(),
            directory: run.directory.clone(),
            started: rfc3339(run.created),
            duration_ms: ms(run.created, times.last.unwrap_or(run.created)),
            tasks,
            agents: times.agents(&names),
            artefacts: artefacts.collect(),
            markdown: kept["markdown"].as_str().unwrap_or_default().to_owned(),
        };
        if report.markdown.is_empty() {
            report.write_markdown(plan).await;
        }
        Ok(report)
    }
}

/// What became of each task, in the order of the plan.
async fn task_reports(
    db: &Db,
    permit: &Permit<Read>,
    run: &Run,
    state: run::State,
    plan: &Plan,
    names: &Names,
    times: &Times,
) -> Result<Vec<TaskReport>, DbError> {
    let steps: HashMap<&str, (usize, &Step)> =
        plan.tasks.iter().enumerate().map(|(n, step)| (step.id.as_str(), (n, step))).collect();
    let (mut reports, mut last) = (BTreeMap::new(), None);
    loop {
        let page = db.tasks_of(permit, &run.id, last, TASKS_PER_READ).await?;
        for task in &page {
            let Some((n, step)) = steps.get(task.name()) else { continue };
            let report = task_report(step, task, run.created, names, times);
            // Whoever held it is gone.
            let is_cut_off = state == run::State::Interrupted && report.status == IN_PROGRESS;
            let report = if is_cut_off { TaskReport { status: state.name().to_owned(), ..report } } else { report };
            reports.insert(*n, report);
        }
        last = page.last().map(|task| (task.position, task.id.clone()));
        if page.len() < TASKS_PER_READ {
            return Ok(reports.into_values().collect());
        }
    }
}

fn task_report(step: &Step, task: &Task, began: Timestamp, names: &Names, times: &Times) -> TaskReport {
    let (mut place, mut output) = (None, Value::Null);
    let (status, result, error) = match &task.state {
        State::Completed(answer) => {
            let mut answer = Answer::read(answer);
            place = answer.place.take();
            match answer.ended() {
                Ended::Completed(result) => ("completed", result, None),
                _ => ("skipped", Value::Null, None),
            }
        }
        State::Failed(failure) => {
            output = failure.output.parse().unwrap_or_default();
            ("failed", Value::Null, Some(failure.error.clone()))
        }
        State::Blocked(by) => ("blocked", Value::Null, Some(format!("{} did not succeed", names.get(by)))),
        state => (state.name(), Value::Null, None),
    };
    let time = times.of.get(&task.id);
    TaskReport {
        id: step.id.clone(),
        role: step.role.name().to_owned(),
        tool: step.tool.clone(),
        status: status.to_owned(),
        allow_failure: step.allow_failure,
        attempts: task.attempt,
        agent: time.map(|time| time.agent.clone()),
        place,
        started_ms: time.map(|time| ms(began, time.started)),
        duration_ms: time.and_then(|time| Some(ms(time.started, time.ended?))),
        result,
        error,
        output,
    }
}

/// When what happened, out of the event log.
#[derive(Default)]
struct Times {
    of: BTreeMap<TaskId, Time>,
    /// What each agent has started, one after the other.
    started: Vec<(String, TaskId)>,
    last: Option<Timestamp>,
}

struct Time {
    agent: String,
    started: Timestamp,
    ended: Option<Timestamp>,
}

impl Times {
    async fn read(app: &App, permit: &Permit<Read>, id: &RunId) -> Result<Times, DbError> {
        let (mut times, mut log) = (Times::default(), app.follow(permit, EventFilter::of_run(id), 0));
        while let Some(news) = log.look().await? {
            // Where the log begins is of no interest: a run has all of its events or none.
            if let News::Events(events) = news {
                events.iter().for_each(|event| times.add(event));
            }
        }
        Ok(times)
    }

    fn add(&mut self, event: &Event) {
        let Some(task) = event.task.clone() else { return };
        self.last = Some(event.at);
        match &event.kind {
            EventKind::TaskStarted(attempt) => {
                let agent = attempt.worker.0.clone();
                self.started.push((agent.clone(), task.clone()));
                self.of.insert(task, Time { agent, started: event.at, ended: None });
            }
            EventKind::TaskCompleted(_) | EventKind::TaskFailed { .. } | EventKind::TaskRetried { .. } => {
                if let Some(time) = self.of.get_mut(&task) {
                    time.ended = Some(event.at);
                }
            }
            _ => {}
        }
    }

    /// Each agent with the names of the tasks that it has started.
    fn agents(&self, names: &Names) -> BTreeMap<String, Vec<String>> {
        let mut agents: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (agent, task) in &self.started {
            agents.entry(agent.clone()).or_default().push(names.get(task).to_owned());
        }
        agents
    }
}

fn ms(from: Timestamp, to: Timestamp) -> f64 {
    (to.0 - from.0) as f64 / 1e3
}

/// All that a run has left behind.
async fn artefacts(db: &Db, permit: &Permit<Read>, run: &RunId) -> Result<Vec<Artefact>, DbError> {
    let mut artefacts: Vec<Artefact> = Vec::new();
    loop {
        let last = artefacts.last().map(|last| (last.task.clone(), last.path.clone()));
        let page = db.artefacts(permit, run, last, PAGE_MAX).await?;
        let is_last = page.len() < PAGE_MAX;
        artefacts.extend(page);
        if is_last {
            return Ok(artefacts);
        }
    }
}
