//! What was acknowledged, and what was refused, on a disk that fails at any moment.
//!
//! A child process works on a SQLite database while a library between it and the kernel (`failing_disk.c`) lets one
//! write or sync go wrong. For each of them: what the child was promised must be true of the file that it leaves.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command as Process, Output, Stdio},
    sync::Arc,
    thread,
    time::Instant,
};

use futures_util::future::join_all;
use skep_core::db::DbError;
use tokio::task::JoinSet;

use super::*;

/// How the disk fails; see `failing_disk.c`.
const ERRORS: [&str; 4] = ["full", "broken-once", "full-once", "broken"];
const POWER: [&str; 2] = ["power", "power-mixed"];
/// Tasks of 100 kB that are there before the child works: more than the cache of a connection holds.
const LARGE_TASKS: usize = 40;
/// The child's work takes less than a second; who is not answered waits for half a minute.
const CHILD_TIME_MAX: Duration = Duration::from_secs(25);
/// Of the child's many writes of large tasks, one in so many fails.
const LARGE_STEP: usize = 67;
/// Of its operations while it migrates, one in so many fails.
const MIGRATION_STEP: usize = 3;
/// Rounds of the child's work, each of 14 writes in groups and alone.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn whichever_write_or_sync_fails_acknowledged_is_there_and_refused_is_not() {
    // Neighbouring operations differ, and a commit has a few of them, so each kind of failure meets each of them.
    every_moment("small", 1, |n| ERRORS[n % ERRORS.len()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_power_fails_acknowledged_is_there() {
    every_moment("small", 1, |n| POWER[n % POWER.len()]).await;
}

/// More than SQLite's cache holds, so that it writes in the middle of a transaction, also when it is only asked to
/// read; and rolls back by itself when that fails.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_write_fails_within_a_group_of_large_writes_none_is_done_by_half() {
    every_moment("large", LARGE_STEP, |n| ["full-once", "broken-once"][n / LARGE_STEP % 2]).await;
}

/// An old database, so that it is both opened and changed by every migration since.
#[tokio::test(flavor = "multi_thread")]
async fn whichever_write_or_sync_fails_while_a_database_is_brought_up_to_date_the_next_start_does_it() {
    every_moment("migrate", MIGRATION_STEP, |n| [ERRORS, [POWER[0], POWER[1], ERRORS[0], ERRORS[1]]].concat()[n % 8])
        .await;
}

/// Let the child's `n`th operation on the disk fail, for each `n` up to its last one.
async fn every_moment(work: &'static str, step: usize, how: fn(usize) -> &'static str) {
    // The disk is in memory: whether something was synced is for the library to know.
    let (directory, programs) = (in_memory(), tempfile::tempdir().unwrap());
    let disk = Arc::new(Disk::new(directory.path(), programs.path(), work).await);
    let (mut running, mut next, mut moments, mut broken) = (JoinSet::new(), 1, 0, Vec::new());
    let at_once = thread::available_parallelism().map_or(2, usize::from);
    loop {
        while running.len() < at_once {
            let (disk, n) = (Arc::clone(&disk), next);
            next += step;
            running.spawn(async move { disk.fail_at(n, how(n), work).await });
        }
        match running.join_next().await.unwrap().unwrap() {
            Met::Nothing => break,
            Met::Failure(kept) => {
                moments += 1;
                broken.extend(kept.err());
            }
        }
    }
    running.join_all().await;
    assert!(moments > 20, "only {moments} operations were met");
    assert!(broken.is_empty(), "{} of {moments}:\n{}", broken.len(), broken[..broken.len().min(5)].join("\n"));
}

/// What the child's work met on the disk.
enum Met {
    /// The work was done before.
    Nothing,
    /// The disk failed, and the promises were kept or not.
    Failure(Result<(), String>),
}

struct Disk {
    directory: PathBuf,
    library: PathBuf,
    /// The database as it is before the child works.
    template: PathBuf,
}

impl Disk {
    async fn new(directory: &Path, programs: &Path, work: &str) -> Disk {
        let library = programs.join("failing_disk.so"); // memory may not be a place for programs
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/failing_disk.c");
        let mut compile = Process::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library).args([source, "-ldl"]);
        assert!(compile.status().unwrap().success(), "the library does not compile");
        let template = directory.join("template.db");
        let address = format!("sqlite:{}", template.display());
        match work {
            "migrate" => old::written_at_0002(&address).await,
            _ => {
                let app = open(&address, Limits::default()).await;
                for n in 0..if work == "large" { LARGE_TASKS } else { 0 } {
                    app.submit(&permit(), large(&n.to_string())).await.unwrap();
                }
                app.db.close().await;
            }
        }
        Disk { directory: directory.to_owned(), library, template }
    }

    async fn fail_at(&self, n: usize, how: &str, work: &str) -> Met {
        let file = self.directory.join(format!("{n}.db"));
        fs::copy(&self.template, &file).unwrap();
        let address = format!("sqlite:{}", file.display());
        let mut child = Process::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "disk::a_child_that_works_on_a_failing_disk", "--ignored", "--nocapture"])
            .env("LD_PRELOAD", &self.library)
            .env("FAILING_DISK_FILES", &file)
            .env("FAILING_DISK_AT", n.to_string())
            .env("FAILING_DISK_HOW", how)
            .env("SKEP_TEST_ADDRESS", &address)
            .env("SKEP_TEST_WORK", work)
            .stdin(Stdio::null());
        let began = Instant::now();
        let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
        assert!(began.elapsed() < CHILD_TIME_MAX, "{how} at {n}: somebody was not answered");
        let said = Said::of(&output, &format!("{how} at {n}"), &file);
        let kept = match work {
            "migrate" => said.is_migrated(&address).await,
            _ => said.holds_in(&address).await,
        };
        for file in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.directory.join(format!("{n}.db{file}")));
        }
        if said.failed { Met::Failure(kept) } else { kept.map_or_else(|broken| panic!("{broken}"), |()| Met::Nothing) }
    }
}

/// What the child said: whether the disk failed, and how each write ended.
struct Said {
    failed: bool,
    answers: Vec<Answer>,
    /// For the message of a test that fails.
    transcript: String,
    file: PathBuf,
}

struct Answer {
    status: String,
    kind: String,
    task: String,
    /// Writes of one batch were waiting side by side.
    batch: usize,
}

impl Said {
    fn of(output: &Output, title: &str, file: &Path) -> Said {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let lines = err.lines().chain(out.lines()).filter(|line| !line.trim().is_empty());
        let transcript = lines.fold(format!("── {title}"), |all, line| all + "\n" + line);
        let failed = err.contains("failing disk: ");
        assert!(output.status.success() || failed, "{transcript}");
        assert!(!transcript.contains("panicked"), "{transcript}");
        let answer = |line: &str| {
            let words: Vec<&str> = line.split_once("answer ")?.1.splitn(5, ' ').collect();
            let [batch, status, kind, task, _] = words.try_into().unwrap_or_else(|_| panic!("{line}"));
            let [status, kind, task] = [status, kind, task].map(str::to_owned);
            Some(Answer { status, kind, task, batch: batch.parse().unwrap() })
        };
        // The last line may be cut off by the loss of power.
        let complete = out.rsplit_once('\n').map_or("", |(lines, _)| lines);
        Said { failed, answers: complete.lines().filter_map(answer).collect(), transcript, file: file.to_owned() }
    }

    /// Look at what is left, with a disk that works. Says which promise was broken.
    async fn holds_in(&self, address: &str) -> Result<(), String> {
        let app = open(address, Limits::default()).await;
        let mut happened: HashMap<(String, String), usize> = HashMap::new();
        for event in log(&app).await {
            *happened.entry((event.kind.name().to_owned(), event.task.unwrap().0)).or_default() += 1;
        }
        for Answer { status, kind, task, .. } in &self.answers {
            let times = happened.get(&(kind.clone(), task.clone())).copied().unwrap_or(0);
            let expected = match status.as_str() {
                "ok" => 1..=1,
                "unsure" => 0..=1,
                _ => 0..=0,
            };
            if !expected.contains(&times) {
                return self.broken(format!("{status} {kind} {task}, but {times} times in the log"));
            }
        }
        if let Some(unsure) = self.answers.iter().find(|answer| answer.status == "unsure")
            && let Some(after) = self.answers.iter().find(|answer| answer.status == "ok" && answer.batch > unsure.batch)
        {
            return self.broken(format!("took {} {} although it was unsure before", after.kind, after.task));
        }
        self.is_sound(&app, 0).await
    }

    /// The same for a database that was to be migrated.
    async fn is_migrated(&self, address: &str) -> Result<(), String> {
        let app = open(address, Limits::default()).await;
        let tasks = tasks_of(&app, &permit(), "working").await;
        if tasks.len() == 6 { self.is_sound(&app, 0).await } else { self.broken(format!("{} tasks", tasks.len())) }
    }

    async fn is_sound(&self, app: &Hub, events_missing: u64) -> Result<(), String> {
        let audit = app.db.audit().await.unwrap();
        if !audit.findings.is_empty() || audit.events_missing != events_missing {
            return self.broken(format!("{audit:#?}"));
        }
        let integrity = rusqlite::Connection::open(&self.file).unwrap();
        let integrity: String = integrity.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
        if integrity == "ok" { Ok(()) } else { self.broken(integrity) }
    }

    fn broken(&self, what: String) -> Result<(), String> {
        Err(format!("{}\n   {what}", self.transcript))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the tests above"]
async fn a_child_that_works_on_a_failing_disk() {
    let [address, work] = ["SKEP_TEST_ADDRESS", "SKEP_TEST_WORK"].map(|name| std::env::var(name).unwrap());
    let clock = Clock::manual(NOW);
    let Ok(db) = Db::open(&address, Limits { clock: clock.clone(), ..Limits::default() }).await else { return };
    let child = Child { app: Hub { app: App::new(db), clock }, batch: 0 };
    match work.as_str() {
        "small" => child.small().await,
        "large" => child.large().await,
        _ => child.app.db.close().await, // it was migrated when it was opened
    }
}

struct Child {
    app: Hub,
    batch: usize,
}

impl Child {
    async fn small(mut self) {
        for round in 0..ROUNDS {
            let name = |n: usize| format!("{round}-{n}");
            self.submit((0..4).map(|n| of_its_own(&name(n)))).await;
            self.submit([NewTask { depends_on: vec![id(&name(1))], ..of_its_own(&name(4)) }]).await;
            let held = self.claim((0..4).map(name)).await;
            let (ended, failed): (Vec<Task>, Vec<Task>) = held.into_iter().partition(|task| task.id.0 != name(2));
            self.end(ended, failed).await;
            let last = self.claim([name(4)]).await;
            self.end(last, Vec::new()).await;
        }
        self.app.db.close().await;
    }

    /// Each claim reads a large input, for which the cache must make room by writing what the submissions before it have
    /// changed.
    async fn large(mut self) {
        let old: Vec<TaskId> = (0..LARGE_TASKS).map(|n| id(&n.to_string())).collect();
        let new: Vec<NewTask> = (0..LARGE_TASKS).map(|n| large(&format!("new-{n}"))).collect();
        let both = async |new: &NewTask, old: &TaskId| {
            tokio::join!(submit(&self.app, new.clone()), claim_from(&self.app, &old.0))
        };
        let pairs = join_all(new.iter().zip(&old).map(|(new, old)| both(new, old))).await;
        let (submitted, claimed): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let submissions = new.iter().zip(&submitted).map(|(task, answer)| (status(answer), "task.submitted", &task.id));
        let claims = old.iter().zip(&claimed).map(|(name, answer)| (status(answer), "task.started", name));
        self.tell(submissions.chain(claims));
        let held = claimed.into_iter().filter_map(|answer| answer.ok()?);
        self.end(held.take(3).collect(), Vec::new()).await;
    }

    async fn submit(&mut self, tasks: impl IntoIterator<Item = NewTask>) {
        let tasks: Vec<NewTask> = tasks.into_iter().collect();
        let all = join_all(tasks.iter().map(|task| submit(&self.app, task.clone()))).await;
        let answers = tasks.iter().zip(&all).map(|(task, answer)| (status(answer), "task.submitted", &task.id));
        self.tell(answers);
    }

    /// Claim each of these tasks from its queue. Gives those that it got.
    async fn claim(&mut self, names: impl IntoIterator<Item = String>) -> Vec<Task> {
        let names: Vec<TaskId> = names.into_iter().map(TaskId).collect();
        let all = join_all(names.iter().map(|name| claim_from(&self.app, &name.0))).await;
        // Where there is nothing to claim, nothing was asked for.
        let some = names.iter().zip(&all).filter(|(_, answer)| !matches!(answer, Ok(None)));
        let answers = some.map(|(name, answer)| (status(answer), "task.started", name));
        self.tell(answers);
        all.into_iter().filter_map(|answer| answer.ok()?).collect()
    }

    async fn end(&mut self, finished: Vec<Task>, failed: Vec<Task>) {
        let finish = join_all(finished.iter().map(|task| finish(&self.app, task)));
        let fail = join_all(failed.iter().map(|task| fail(&self.app, task, false)));
        let (finish, fail) = tokio::join!(finish, fail);
        let finished = finished.iter().zip(&finish).map(|(task, answer)| (status(answer), "task.completed", &task.id));
        let failed = failed.iter().zip(&fail).map(|(task, answer)| (status(answer), "task.failed", &task.id));
        self.tell(finished.chain(failed));
    }

    /// One line for each, and all at once, so that nothing comes in between.
    fn tell<'a>(&mut self, answers: impl Iterator<Item = ((&'static str, String), &'static str, &'a TaskId)>) {
        let line = |((status, error), kind, task): ((&str, String), &str, &TaskId)| {
            format!("answer {} {status} {kind} {} {error}\n", self.batch, task.0)
        };
        let lines: String = answers.map(line).collect();
        self.batch += 1;
        std::io::stdout().write_all(format!("\n{lines}").as_bytes()).unwrap();
    }
}

/// A task in a queue of its own.
fn of_its_own(name: &str) -> NewTask {
    NewTask { queue: name.to_owned(), ..new(name) }
}

/// The same, with an input of 100 kB that no other task has.
fn large(name: &str) -> NewTask {
    NewTask { input: json!(name.to_owned() + &"x".repeat(100_000)).into(), ..of_its_own(name) }
}

async fn submit(app: &Hub, task: NewTask) -> Result<Task, TaskError> {
    app.submit(&permit(), task).await
}

async fn claim_from(app: &Hub, queue: &str) -> Result<Option<Task>, TaskError> {
    app.claim(&permit(), queue, &holder("w")).await
}

/// One word, and the error.
fn status<T>(answer: &Result<T, TaskError>) -> (&'static str, String) {
    match answer {
        Ok(_) => ("ok", String::new()),
        Err(TaskError::Db(error @ DbError::Unsure(_))) => ("unsure", format!("{error:?}")),
        Err(error) => ("err", format!("{error:?}")),
    }
}
