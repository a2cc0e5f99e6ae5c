//! What a person or a program sees of a run while it goes on: a reader of the event log, like any other.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use skep_core::{
    Timestamp,
    app::{App, EventFollower},
    db::{DbError, News},
    event::{Event, EventFilter, EventKind},
    policy::{Permit, Read},
    run::RunId,
};
use skep_plan::Plan;
use skep_sandbox::Stream;
use tokio::sync::mpsc;

use crate::{
    events::{self, rfc3339},
    run::{Names, now},
    terminal::{block, can_draw, line, print, say, short_line},
    worker::Printed,
};

/// A plan with more tasks than this is shown as one line, not as a tree.
const TREE_TASKS_MAX: usize = 40;
/// Characters of an error beside its task; all of it is in the report.
const NOTE_CHARS_MAX: usize = 100;
/// How often lines are shown that commands print.
const LINES_EVERY: Duration = Duration::from_millis(20);
/// How often the spinners turn.
const TICK: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A tree on a terminal, lines elsewhere; on standard error.
    People,
    /// Each event as a line of JSON on standard output.
    Json,
    /// Not at all.
    Quiet,
}

/// Reads the events of one run. Where the log begins is of no interest: a run has all of its events or none.
pub(super) struct Follow(EventFollower);

impl Follow {
    /// From the first event on.
    pub(super) fn new(app: &App, permit: &Permit<Read>, run: &RunId) -> Follow {
        Follow(app.follow(permit, EventFilter::of_run(run), 0))
    }

    /// What has happened since the last look; empty if nothing.
    pub(super) async fn look(&mut self) -> Result<Vec<Arc<Event>>, DbError> {
        loop {
            match self.0.look().await? {
                Some(News::Events(events)) => return Ok(events),
                Some(News::Reset { .. }) => {}
                None => return Ok(Vec::new()),
            }
        }
    }

    /// Wait for what happens next. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Vec<Arc<Event>>, DbError> {
        loop {
            if let News::Events(events) = self.0.next().await? {
                return Ok(events);
            }
        }
    }

    /// Hand each event to `show` until the run is over, also if it was before, and went on. Dropping the future stops it.
    pub(super) async fn until_over(&mut self, mut show: impl FnMut(&Event)) -> Result<(), DbError> {
        let mut is_over = false;
        loop {
            let events = if is_over { self.look().await? } else { self.next().await? };
            if events.is_empty() {
                return Ok(());
            }
            for event in &events {
                show(event);
                match &event.kind {
                    EventKind::RunEnded { .. } | EventKind::RunInterrupted {} => is_over = true,
                    EventKind::RunResumed {} | EventKind::RunRetried {} => is_over = false,
                    _ => {}
                }
            }
        }
    }
}

/// Shows a run while this process works on it: its events, and what its commands print.
pub(super) struct Live {
    printed: mpsc::Receiver<Printed>,
    /// Lines that are not shown yet.
    lines: VecDeque<Printed>,
    /// The tasks that are at work, as far as that was shown.
    at_work: HashSet<String>,
    pub(super) show: Show,
    names: Names,
}

impl Live {
    pub(super) fn new(printed: mpsc::Receiver<Printed>, show: Show, names: Names) -> Live {
        Live { printed, lines: VecDeque::new(), at_work: HashSet::new(), show, names }
    }

    /// Show what happens until the run is over. Nothing is lost if the future is dropped before.
    pub(super) async fn until_over(&mut self, follow: &mut Follow) -> Result<(), DbError> {
        loop {
            tokio::select! {
                events = follow.next() => {
                    if self.take(&events?) {
                        return Ok(());
                    }
                }
                Some(line) = self.printed.recv() => {
                    self.lines.push_back(line);
                    tokio::time::sleep(LINES_EVERY).await; // for more, which are shown together
                    self.take_lines();
                    self.show_lines(|at_work, task| at_work.contains(task));
                }
            }
        }
    }

    /// Show what has happened since the last look, and all lines that are left.
    pub(super) async fn look(&mut self, follow: &mut Follow) -> Result<(), DbError> {
        loop {
            let events = follow.look().await?;
            if events.is_empty() {
                break;
            }
            self.take(&events);
        }
        self.take_lines();
        self.show_lines(|_, _| true);
        Ok(())
    }

    /// Show these events. Whether the run is over.
    ///
    /// A task's lines come after its start and before its end: until its start was shown they wait, and whatever it printed
    /// was there before its end was.
    fn take(&mut self, events: &[Arc<Event>]) -> bool {
        let mut is_over = false;
        for event in events {
            is_over |= matches!(&event.kind, EventKind::RunEnded { .. } | EventKind::RunInterrupted {});
            if let Some(task) = event.task.as_ref().map(|task| self.names.get(task).to_owned()) {
                match &event.kind {
                    EventKind::TaskStarted(_) => drop(self.at_work.insert(task)),
                    // The latter is of an earlier attempt.
                    EventKind::TaskLog { .. } | EventKind::TaskAnswerRefused { .. } => {}
                    _ if self.at_work.remove(&task) => {
                        self.take_lines();
                        self.show_lines(|_, of| of == task);
                    }
                    _ => {}
                }
            }
            self.show.event(event, &self.names);
        }
        self.show_lines(|at_work, task| at_work.contains(task));
        is_over
    }

    fn take_lines(&mut self) {
        self.lines.extend(std::iter::from_fn(|| self.printed.try_recv().ok()));
    }

    /// Show the lines of those tasks that `which` chooses.
    fn show_lines(&mut self, which: impl Fn(&HashSet<String>, &str) -> bool) {
        let lines = std::mem::take(&mut self.lines);
        let (shown, others) = lines.into_iter().partition(|line| which(&self.at_work, &line.task));
        self.lines = others;
        VecDeque::iter(&shown).for_each(|line| self.show.printed(line));
    }
}

/// An event as a line for programs, with the name of its task.
pub(super) fn to_json(event: &Event, names: &Names) -> String {
    events::to_json(event, event.task.as_ref().map(|task| names.get(task)))
}

/// An event as a line for people.
pub(super) fn to_text(event: &Event, names: &Names) -> String {
    let task = event.task.as_ref().map(|task| names.get(task)).unwrap_or_default();
    let what = match &event.kind {
        EventKind::TaskSubmitted { .. } => format!("{task}: waits"),
        EventKind::TaskStarted(attempt) => format!("{task}: started by {}", attempt.worker.0),
        EventKind::TaskCompleted(_) => format!("{task}: completed"),
        EventKind::TaskRetried { error, .. } => format!("{task}: failed, will be tried again: {error}"),
        EventKind::TaskFailed { error, .. } => format!("{task}: failed: {error}"),
        EventKind::TaskBlocked { .. } => format!("{task}: blocked, because a task before it failed"),
        EventKind::TaskReleased(_) => format!("{task}: given back"),
        EventKind::TaskLog { message, .. } => format!("{task}: {message}"),
        kind if task.is_empty() => kind.name().replace('.', " "),
        kind => format!("{task}: {}", kind.name().rsplit('.').next().unwrap_or_default().replace('_', " ")),
    };
    format!("{} {}", time_of_day(event.at), indented(&what))
}

fn printed_to_text(line: &Printed) -> String {
    let Printed { task, text, left_out, .. } = line;
    let text = block(text);
    match left_out {
        0 => format!("{task} | {text}"),
        more => format!("{task} | … {more} lines are not shown here; the task's answer has them\n{task} | {text}"),
    }
}

fn printed_to_json(line: &Printed) -> String {
    let Printed { task, stream, text, left_out } = line;
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let data = json!({ "stream": stream, "text": text, "left_out": left_out });
    json!({ "at": rfc3339(now()), "kind": "task.output", "task": task, "data": data }).to_string()
}

/// Text of several lines, safe to be shown. The further lines stand out, so that none is taken for an event.
fn indented(text: &str) -> String {
    text.lines().map(line).collect::<Vec<_>>().join("\n    ")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The local time of day, to the millisecond.
pub(super) fn time_of_day(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    at.strftime("%H:%M:%S%.3f").to_string()
}

/// Shows events as they come.
pub(super) enum Show {
    Tree(Tree),
    Lines,
    Json,
    Nothing,
}

impl Show {
    pub(super) fn new(style: Style, plan: &Plan, finished: &[&str]) -> Show {
        match style {
            Style::Quiet => Show::Nothing,
            Style::Json => Show::Json,
            Style::People if can_draw(&std::io::stderr()) => Show::Tree(Tree::new(plan, finished)),
            Style::People => Show::Lines,
        }
    }

    fn event(&mut self, event: &Event, names: &Names) {
        match self {
            Show::Tree(tree) => tree.event(event, names),
            Show::Lines if matches!(event.kind, EventKind::TaskSubmitted { .. }) => {}
            // What a failed command printed is in the report, which comes at the end.
            Show::Lines => say!("{}", first_line(&to_text(event, names))),
            // A reader that has gone away shall not end the run.
            Show::Json => drop(print(&format!("{}\n", to_json(event, names)))),
            Show::Nothing => {}
        }
    }

    fn printed(&mut self, line: &Printed) {
        match self {
            Show::Tree(tree) => drop(tree.bars.println(printed_to_text(line))),
            Show::Lines => say!("{}", printed_to_text(line)),
            Show::Json => drop(print(&format!("{}\n", printed_to_json(line)))),
            Show::Nothing => {}
        }
    }

    /// Leave the last state on the screen.
    pub(super) fn end(self) {
        if let Show::Tree(tree) = self {
            tree.end();
        }
    }
}

/// The tasks of a run, each under the first one that it depends on, with what it does right now.
pub(super) struct Tree {
    bars: MultiProgress,
    all: ProgressBar,
    lines: HashMap<String, ProgressBar>,
}

impl Tree {
    fn new(plan: &Plan, finished: &[&str]) -> Tree {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let all = bars.add(ProgressBar::new(plan.tasks.len() as u64));
        all.set_style(style("{spinner} {msg}  {pos}/{len} tasks  {elapsed}"));
        all.set_message(line(&plan.name).into_owned());
        all.enable_steady_tick(TICK);
        let mut tree = Tree { bars, all, lines: HashMap::new() };
        if plan.tasks.len() <= TREE_TASKS_MAX {
            for (n, depth) in in_order(plan) {
                let line = tree.bars.add(ProgressBar::new_spinner());
                line.set_style(style("{prefix}· {msg}"));
                line.set_prefix("  ".repeat(depth + 1));
                line.set_message(plan.tasks[n].id.clone());
                line.tick();
                tree.lines.insert(plan.tasks[n].id.clone(), line);
            }
        }
        for task in finished {
            tree.all.inc(1);
            tree.mark(task, "✔", "", true);
        }
        tree
    }

    fn event(&mut self, event: &Event, names: &Names) {
        let Some(task) = event.task.as_ref().map(|task| names.get(task)) else { return };
        match &event.kind {
            EventKind::TaskStarted(attempt) => {
                if let Some(line) = self.lines.get(task) {
                    line.set_style(style("{prefix}{spinner} {msg}  {elapsed}"));
                    line.reset_elapsed();
                    line.set_message(format!("{task}  ({})", attempt.worker.0));
                    line.enable_steady_tick(TICK);
                }
            }
            EventKind::TaskCompleted(_) => self.over(task, "✔", ""),
            EventKind::TaskFailed { error, .. } => self.over(task, "✘", error),
            EventKind::TaskExpired { error, .. } => self.over(task, "✘", error),
            EventKind::TaskBlocked { .. } => self.over(task, "⊘", "blocked"),
            EventKind::TaskCancelled { .. } => self.mark(task, "⊘", "cancelled", true),
            EventKind::TaskReopened {} | EventKind::TaskReleased(_) => self.mark(task, "·", "", false),
            EventKind::TaskRetried { error, .. } => self.mark(task, "↻", error, false),
            EventKind::TaskLog { message, .. } => drop(self.bars.println(format!("{task}: {}", line(message)))),
            _ => {}
        }
    }

    fn over(&self, task: &str, sign: &str, note: &str) {
        self.all.inc(1);
        self.mark(task, sign, note, true);
    }

    fn mark(&self, task: &str, sign: &str, note: &str, over: bool) {
        let Some(line) = self.lines.get(task) else { return };
        line.disable_steady_tick();
        line.set_style(style(&format!("{{prefix}}{sign} {{msg}}")));
        let note = short_line(first_line(note), NOTE_CHARS_MAX);
        let message = if note.is_empty() { task.to_owned() } else { format!("{task}: {note}") };
        match over {
            true => line.finish_with_message(message),
            false => line.set_message(message),
        }
    }

    fn end(self) {
        self.all.set_style(style("{msg}  {pos}/{len} tasks  {elapsed}"));
        self.all.abandon(); // `finish` would claim that every task is over
        self.lines.values().filter(|line| !line.is_finished()).for_each(ProgressBar::abandon);
    }
}

/// The tasks depth first, each under the first one that it depends on, with its depth. A plan has no cycles.
fn in_order(plan: &Plan) -> Vec<(usize, usize)> {
    fn below(plan: &Plan, parent: Option<&str>, depth: usize, order: &mut Vec<(usize, usize)>) {
        for (n, step) in plan.tasks.iter().enumerate() {
            if step.depends_on.first().map(String::as_str) == parent {
                order.push((n, depth));
                below(plan, Some(&step.id), depth + 1, order);
            }
        }
    }
    let mut order = Vec::new();
    below(plan, None, 0, &mut order);
    order
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use skep_core::{
        Namespace,
        db::{Db, Limits},
        policy::Actor,
        run::NewRun,
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_follower_of_a_run_reads_each_of_its_events_once_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", directory.path().join("skep.db").display());
        let app = App::new(Db::open(&address, Limits::default()).await.unwrap());
        let actor = Actor::operator("test", Namespace::team("main"));
        let (permit, id) = (actor.permit().unwrap(), |name: &str| RunId(name.into()));
        let start = async |name: &str| {
            let run = NewRun {
                id: id(name),
                name: name.into(),
                plan: json!({}).into(),
                inputs: json!({}).into(),
                directory: "/tmp".into(),
            };
            app.start_run(&permit, run, Vec::new()).await.unwrap();
        };
        let say = async |run: &str, text: &str| app.log(&permit, &id(run), None, text, None).await.unwrap();
        start("other").await;
        start("r").await;
        say("other", "no").await;
        say("r", "before").await;

        let mut follow = Follow::new(&app, &permit.to_read(), &id("r"));
        let mut seen = Vec::new();
        let mut read = async |count: usize| {
            while seen.len() < count {
                let events = follow.next().await.unwrap();
                seen.extend(events.iter().map(|event| (event.number, event.kind.name().to_owned())));
            }
            assert_eq!(seen.len(), count);
        };
        read(2).await; // what has been
        let (_, ()) = tokio::join!(read(3), async { say("r", "meanwhile").await });
        say("other", "no").await;
        say("r", "after").await;
        read(4).await;
        let expected = [(2, "run.started"), (4, "task.log"), (5, "task.log"), (7, "task.log")];
        assert_eq!(seen, expected.map(|(number, kind)| (number, kind.to_owned())));
        assert!(follow.look().await.unwrap().is_empty(), "all was read");
    }
}
