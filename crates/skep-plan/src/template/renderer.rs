//! Renders templates within limits on time and memory.
//!
//! The engine counts its steps, but one step can make a value of any size (`text * 1000000`, `items | slice(100000000)`),
//! and nothing interrupts it. So a template is rendered in this process only if it is plain: names, comparisons and filters
//! whose values are hardly larger than what they are made of (`syntax.rs` tells). Every other template is rendered by
//! this program started again as a helper, which has little more than its standard streams, may not take more than a
//! fixed amount of memory and processor time, and is killed when its task runs out of time or is cancelled. The kernel
//! holds it to its limits, whatever the engine does.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use super::{Reference, Scope, Tasks, TemplateError, is_template, syntax};

/// The name by which the helper knows what it is.
const NAME: &str = "skep-template";
/// Time for the templates of one task, or for a report.
pub const TIME_MAX_MS: u64 = 30_000;
/// Processor time for the same. It also ends a helper whose parent was killed.
const CPU_TIME_MAX_S: u64 = 20;
/// Memory of a helper, besides [`MEMORY_FACTOR`] times what it is given.
pub const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// What it is given is text; as values it takes several times as much.
const MEMORY_FACTOR: u64 = 4;
/// The results, inputs and templates that a helper is given.
pub const JOB_BYTES_MAX: usize = 64 << 20;
/// What it gives back. Its values are limited before; as JSON, a byte of them takes up to six.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// What is read of its complaints, to know what it died of.
const COMPLAINT_BYTES_MAX: u64 = 4096;
/// Stack of the thread that renders. A value can be nested deeper than this; the helper dies of it.
const STACK_BYTES: usize = 8 << 20;
/// Helpers at the same time; what is to be rendered waits for its turn.
const HELPERS_MAX: usize = 4;
/// Filters, tests and comparisons in the plain templates of one task. Each may look at all of a value.
pub(super) const PLAIN_WORK_MAX: usize = 64;

static HELPERS: Semaphore = Semaphore::const_new(HELPERS_MAX);

/// Whether `main` has called [`init`], so that this program may be executed again.
static IS_SET_UP: AtomicBool = AtomicBool::new(false);

/// Become the helper if that is what this program was started as; otherwise return at once.
///
/// Call it first in `main`, before any thread is started. In a program that does not, every template is rendered in the
/// program itself.
pub fn init() {
    if std::env::args_os().next().is_some_and(|name| name == NAME) {
        std::process::exit(match help() {
            Ok(()) => 0,
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error}"); // whoever started it reads this, and nobody else
                1
            }
        });
    }
    IS_SET_UP.store(true, Ordering::Release);
}

/// What bounds a rendering from outside.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// How long it may take; never more than [`TIME_MAX_MS`].
    pub time: Duration,
    /// Ends it at once.
    pub stop: CancellationToken,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { time: Duration::from_millis(TIME_MAX_MS), stop: CancellationToken::new() }
    }
}

/// The arguments of a task with its templates filled in; `None` if its condition does not hold.
pub async fn arguments(
    scope: Scope,
    when: Option<String>,
    args: Value,
    bounds: &Bounds,
) -> Result<Option<Value>, TemplateError> {
    render(scope, Work::Arguments { when, args }, bounds).await
}

/// The text that a template gives, such as a report.
pub async fn text(scope: Scope, template: String, bounds: &Bounds) -> Result<String, TemplateError> {
    match render(scope, Work::Text { template }, bounds).await? {
        Some(Value::String(text)) => Ok(text),
        _ => Err(TemplateError::new(1, "the renderer gave no text")),
    }
}

/// What is to be rendered.
#[derive(Debug, Serialize, Deserialize)]
enum Work {
    Arguments { when: Option<String>, args: Value },
    Text { template: String },
}

impl Work {
    fn render(&self, scope: &Scope) -> Result<Option<Value>, TemplateError> {
        match self {
            Work::Arguments { when, args } => match when.as_deref().map_or(Ok(true), |when| scope.truth(when))? {
                true => scope.render(args).map(Some),
                false => Ok(None),
            },
            Work::Text { template } => scope.text(template).map(|text| Some(text.into())),
        }
    }

    /// What all the templates in it say. Texts that are no templates are left out; they are reported when it is rendered.
    fn syntax(&self) -> Vec<syntax::Syntax> {
        let mut found = Vec::new();
        match self {
            Work::Arguments { when, args } => {
                found.extend(
                    when.as_ref()
                        .and_then(|when| syntax::of_expression(super::expression(when).unwrap_or(when.trim())).ok()),
                );
                texts(args, &mut |text| found.extend(syntax::of_template(text).ok()));
            }
            Work::Text { template } => found.extend(syntax::of_template(template).ok()),
        }
        found
    }
}

/// Every text that may be a template.
fn texts(value: &Value, found: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) if is_template(text) => found(text),
        Value::Array(elements) => elements.iter().for_each(|element| texts(element, found)),
        Value::Object(members) => members.values().for_each(|member| texts(member, found)),
        _ => {}
    }
}

/// What a helper is given.
#[derive(Serialize, Deserialize)]
struct Job {
    inputs: minijinja::Value,
    run: minijinja::Value,
    order: Vec<String>,
    ended: BTreeMap<String, minijinja::Value>,
    work: Work,
}

impl Job {
    /// The work, and as much of what its templates see as they name.
    fn new(scope: Scope, work: Work, syntax: &[syntax::Syntax]) -> Job {
        let names = || syntax.iter().flat_map(|syntax| &syntax.references);
        let sees_all = names().any(|name| *name == Reference::AnyTask);
        let is_named = |wanted: &str| names().any(|name| matches!(name, Reference::Task { id, .. } if id == wanted));
        let ended = scope.tasks.ended.iter().filter(|(id, _)| sees_all || is_named(id));
        let ended = ended.map(|(id, task)| (id.clone(), task.clone())).collect();
        Job { inputs: scope.inputs, run: scope.run, order: scope.tasks.order.clone(), ended, work }
    }

    fn render(self) -> Result<Option<Value>, TemplateError> {
        let tasks = Arc::new(Tasks { order: self.order, ended: self.ended });
        self.work.render(&Scope { inputs: self.inputs, run: self.run, tasks })
    }
}

async fn render(scope: Scope, work: Work, bounds: &Bounds) -> Result<Option<Value>, TemplateError> {
    let prepare = move || {
        let syntax = work.syntax();
        let is_plain = syntax.iter().all(|syntax| syntax.is_plain);
        let is_little = syntax.iter().map(|syntax| syntax.work).sum::<usize>() <= PLAIN_WORK_MAX;
        if is_plain && is_little || !IS_SET_UP.load(Ordering::Acquire) {
            return Ok(Err(work.render(&scope)));
        }
        let job = serde_json::to_vec(&Job::new(scope, work, &syntax));
        match job.map_err(|error| TemplateError::new(1, error.to_string()))? {
            job if job.len() > JOB_BYTES_MAX => Err(TemplateError::new(
                1,
                format!("the templates use results of more than {JOB_BYTES_MAX} bytes; keep large ones in files"),
            )),
            job => Ok(Ok(job)),
        }
    };
    let time = bounds.time.min(Duration::from_millis(TIME_MAX_MS));
    let rendered = async {
        let prepared = tokio::task::spawn_blocking(prepare).await;
        match prepared.map_err(|error| TemplateError::new(1, error.to_string()))?? {
            Err(rendered) => rendered,
            Ok(job) => {
                let _turn = HELPERS.acquire().await;
                by_helper(job).await.map_err(|error| TemplateError::new(1, format!("cannot be rendered: {error}")))?
            }
        }
    };
    tokio::select! {
        rendered = tokio::time::timeout(time, rendered) => rendered.unwrap_or_else(|_| Err(too_long(time))),
        () = bounds.stop.cancelled() => Err(TemplateError::new(1, "the templates were not rendered, because the run stops")),
    }
}

fn too_long(time: Duration) -> TemplateError {
    TemplateError::new(1, format!("the templates take longer than {} to render", skep_tools::duration::Span(time)))
}

/// Have a helper do it. It is killed if this is dropped.
async fn by_helper(job: Vec<u8>) -> io::Result<Result<Option<Value>, TemplateError>> {
    let memory_bytes_max = MEMORY_BYTES_MAX + MEMORY_FACTOR * job.len() as u64;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(NAME).arg(memory_bytes_max.to_string()).env_clear();
    // The allocator otherwise begins with a reservation of a gigabyte, before the limit is set.
    command.env("MIMALLOC_ARENA_RESERVE", "0");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut helper = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let (Some(mut input), Some(output), Some(complaints)) =
        (helper.stdin.take(), helper.stdout.take(), helper.stderr.take())
    else {
        return Err(io::Error::other("the helper has no pipes"));
    };
    let (mut answer, mut complaint) = (Vec::new(), Vec::new());
    let write = async {
        // Whoever dies before it has read everything is found out about below.
        let _ = input.write_all(&job).await;
        drop(input);
    };
    let (mut output, mut complaints) = (output.take(ANSWER_BYTES_MAX), complaints.take(COMPLAINT_BYTES_MAX));
    let ((), read, _) = tokio::join!(write, output.read_to_end(&mut answer), complaints.read_to_end(&mut complaint));
    read?;
    let status = helper.wait().await?;
    if status.success() {
        return Ok(serde_json::from_slice(&answer)
            .unwrap_or_else(|_| Err(TemplateError::new(1, "the templates give a value that is nested too deep"))));
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let limit = format!("the templates take more than {} MiB of memory to render", memory_bytes_max >> 20);
    Ok(Err(match status.signal() {
        Some(signal) if signal == Signal::XCPU.as_raw() || signal == Signal::KILL.as_raw() => {
            too_long(Duration::from_secs(CPU_TIME_MAX_S))
        }
        Some(_) if complaint.contains("overflowed its stack") => {
            TemplateError::new(1, "the templates give a value that is nested too deep")
        }
        _ if complaint.contains("memory allocation") || complaint.contains("capacity overflow") => {
            TemplateError::new(1, limit)
        }
        _ => TemplateError::new(1, format!("the renderer ended unexpectedly ({status})")),
    }))
}

/// The helper: limit yourself, read a job, do it, write the answer.
fn help() -> Result<(), String> {
    let memory_bytes_max = std::env::args().nth(1).and_then(|bytes| bytes.parse().ok()).ok_or("no limit is given")?;
    for (resource, most) in [
        // Counts what can be written, unlike the address space; that holds this program's own code, too.
        (Resource::Data, memory_bytes_max),
        (Resource::Cpu, CPU_TIME_MAX_S),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).map_err(|error| error.to_string())?;
    }
    let mut job = Vec::new();
    io::stdin().lock().read_to_end(&mut job).map_err(|error| error.to_string())?;
    let render = move || -> Result<Vec<u8>, String> {
        let read: Job = serde_json::from_slice(&job).map_err(|error| error.to_string())?;
        drop(job);
        serde_json::to_vec(&read.render()).map_err(|error| error.to_string())
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(render);
    let answer = thread.map_err(|error| error.to_string())?.join().map_err(|_| "the engine panicked")??;
    io::stdout().lock().write_all(&answer).map_err(|error| error.to_string())
}
