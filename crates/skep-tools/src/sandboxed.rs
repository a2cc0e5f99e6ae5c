//! What the tools that run a command share: the sandbox, and the answer that a command gives.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use skep_sandbox::{Config, End, Error, Namespaces, Oci, Outcome, Request, Run, Sandbox, Source, Tier};
use tokio::sync::Mutex;

use crate::{
    error::ToolError,
    room,
    workspace::{Context, Dir, HiddenSign, INPUTS_INSIDE, OUTPUTS, WORKSPACE_INSIDE},
};

/// Values in a command's output that is given as JSON, too. Each takes far more memory than text.
const JSON_VALUES_MAX: usize = 100_000;
/// Sandboxes that show other outputs than the hub's own; those that were used last.
const OTHERS_MAX: usize = 16;
/// Interpreters that may wait in each of these.
const OTHERS_WARM_MAX: usize = 1;

/// How commands are kept in: section `[sandbox]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Interpreters that may wait, started, for the next program; `python3` holds about 10 MB, `node` 45 MB. Default: 3.
    pub warm_max: Option<usize>,
    /// The least isolation to accept, where this machine cannot do more. Default: strict.
    pub accept: Accept,
    /// Run commands in containers instead. That is slower, and keeps less in.
    pub container: Option<Container>,
}

/// How much isolation is enough. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accept {
    /// All of it, or nothing is run.
    #[default]
    Strict,
    /// No `/proc` inside, for containers in which it is partly covered.
    WithoutProc,
    /// No namespaces, where they are refused: Landlock, the filter of system calls and limits alone.
    Landlock,
}

/// What runs containers, and what they are made from: `root` or `image`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, try_from = "ContainerAsWritten")]
#[schemars(with = "ContainerAsWritten")]
pub struct Container(Oci);

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ContainerAsWritten {
    /// Program that runs containers, or a path to one: `runc`, `crun`, `runsc` for a root, `podman`, `docker` for an image.
    runtime: PathBuf,
    /// Directory with the root of every container, such as an image that was unpacked there. Shown read-only.
    root: Option<PathBuf>,
    /// Name of an image that is there already; none is pulled.
    image: Option<String>,
}

impl TryFrom<ContainerAsWritten> for Container {
    type Error = &'static str;

    fn try_from(written: ContainerAsWritten) -> Result<Container, &'static str> {
        let source = match (written.root, written.image) {
            (Some(root), None) => Source::Root(root),
            (None, Some(image)) => Source::Image(image),
            _ => return Err("a container is made from either a `root` or an `image`"),
        };
        Ok(Container(Oci { runtime: written.runtime, source }))
    }
}

impl Settings {
    /// Put them into what a sandbox is made from.
    pub fn apply(&self, config: &mut Config) {
        if self.accept == Accept::Landlock {
            config.namespaces = Namespaces::Preferred;
        }
        config.warm_max = self.warm_max.unwrap_or(config.warm_max);
        config.oci = self.container.as_ref().map(|Container(oci)| oci.clone());
    }

    /// The least isolation to ask for: what the operator has chosen, and never less than that.
    pub fn least_tier(&self) -> Tier {
        match self.accept {
            _ if self.container.is_some() => Tier::Oci,
            Accept::Strict => Tier::Strict,
            Accept::WithoutProc => Tier::StrictWithoutProc,
            Accept::Landlock => Tier::Landlock,
        }
    }
}

/// The sandbox of this process, started when it is first needed; cheap to clone.
#[derive(Clone)]
pub struct SandboxOnDemand {
    config: Config,
    least_tier: Tier,
    /// The directories that the binds show, by where they are inside.
    shown: Vec<(PathBuf, Dir)>,
    started: Arc<Mutex<Option<Started>>>,
    /// What shows other outputs: those of one principal, for instance.
    others: Arc<std::sync::Mutex<Vec<Other>>>,
}

/// A sandbox for other outputs, and what these are known by.
struct Other {
    outputs: (u64, u64),
    sandbox: SandboxOnDemand,
}

/// A sandbox, and what was hidden in its directories when it was started.
struct Started {
    signs: Vec<HiddenSign>,
    sandbox: Sandbox,
}

/// A command that a tool wants to run.
pub struct Job {
    /// Name of the tool, for its errors.
    pub tool: &'static str,
    /// What is run.
    pub run: Run,
    /// Its standard input.
    pub stdin: Vec<u8>,
    /// Files that it finds.
    pub files: Vec<skep_sandbox::InFile>,
    /// It starts in the workspace, not in `/tmp`.
    pub in_workspace: bool,
}

impl Job {
    /// It starts in the workspace, with no input and no files of its own.
    pub fn new(tool: &'static str, run: Run) -> Job {
        Job { tool, run, stdin: Vec::new(), files: Vec::new(), in_workspace: true }
    }
}

/// What a command gave.
#[derive(Debug, serde::Serialize, schemars::JsonSchema)]
pub struct CommandAnswer {
    /// Exit code.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output as JSON, if it is an object or a list.
    pub json: Option<Value>,
    /// Files that it left, as other calls can name them.
    pub outputs: Vec<String>,
    /// What it left that is not kept, and why.
    pub skipped: Vec<String>,
    /// Time it took, in milliseconds.
    pub duration_ms: f64,
}

impl SandboxOnDemand {
    /// Nothing is started yet.
    pub fn new(config: Config) -> SandboxOnDemand {
        let (shown, started, others) = (Vec::new(), Arc::default(), Arc::default());
        SandboxOnDemand { config, least_tier: Tier::Strict, shown, started, others }
    }

    /// For this workspace and these outputs, without what they hide.
    pub fn showing(workspace: &Dir, outputs: &Dir, config: Config) -> SandboxOnDemand {
        let shown = vec![(WORKSPACE_INSIDE.into(), workspace.clone()), (INPUTS_INSIDE.into(), outputs.clone())];
        SandboxOnDemand { shown, ..SandboxOnDemand::new(config) }
    }

    /// The same, for commands to which this much isolation is enough.
    pub fn accepting(self, least_tier: Tier) -> SandboxOnDemand {
        SandboxOnDemand { least_tier, ..self }
    }

    /// The sandbox, started if need be: also where something else is to be hidden by now.
    pub async fn get(&self) -> Result<Sandbox, Error> {
        let hidden = self.shown.iter().map(|(inside, dir)| (inside, dir.hidden()));
        let (hidden, signs): (Vec<_>, Vec<_>) = hidden.map(|(inside, (places, sign))| ((inside, places), sign)).unzip();
        let mut started = self.started.lock().await;
        if let Some(started) = started.as_ref().filter(|started| started.signs == signs) {
            return Ok(started.sandbox.clone());
        }
        let mut config = self.config.clone();
        for (inside, places) in hidden {
            config
                .binds
                .iter_mut()
                .filter(|bind| bind.target == *inside)
                .for_each(|bind| bind.hidden.clone_from(&places));
        }
        let sandbox = Sandbox::start(config).await?;
        *started = Some(Started { signs, sandbox: sandbox.clone() });
        Ok(sandbox)
    }

    /// The sandbox in which these outputs are shown as what earlier calls have left, and no others.
    async fn for_outputs(&self, outputs: &Dir) -> Result<Sandbox, Error> {
        let shown = self.config.binds.iter().find(|bind| bind.target == Path::new(INPUTS_INSIDE));
        if shown.is_none_or(|bind| bind.source == outputs.path()) {
            return self.get().await;
        }
        let identity = outputs.id().map_err(|source| Error::Setup { step: "look at the outputs".into(), source })?;
        let sandbox = {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let known = others.iter().position(|other| other.outputs == identity).map(|at| others.remove(at));
            let other = known.unwrap_or_else(|| Other { outputs: identity, sandbox: self.with_outputs(outputs) });
            let sandbox = other.sandbox.clone();
            others.push(other);
            if others.len() > OTHERS_MAX {
                others.remove(0); // what runs in it goes on to its end
            }
            sandbox
        };
        sandbox.get().await
    }

    /// The same for other outputs; not started yet.
    fn with_outputs(&self, outputs: &Dir) -> SandboxOnDemand {
        let mut config = Config { warm_max: self.config.warm_max.min(OTHERS_WARM_MAX), ..self.config.clone() };
        for bind in config.binds.iter_mut().filter(|bind| bind.target == Path::new(INPUTS_INSIDE)) {
            (bind.source, bind.hidden) = (outputs.path().to_owned(), outputs.hidden().0);
        }
        let mut shown = self.shown.clone();
        for (_, dir) in shown.iter_mut().filter(|(inside, _)| inside == Path::new(INPUTS_INSIDE)) {
            *dir = outputs.clone();
        }
        SandboxOnDemand { shown, ..SandboxOnDemand::new(config).accepting(self.least_tier) }
    }

    /// Run a command, keep its outputs, and turn its end into an answer or an error.
    pub async fn run(&self, context: &Context, job: Job) -> Result<CommandAnswer, ToolError> {
        let mut request = Request::new(job.run);
        request.stdin = job.stdin;
        request.files = job.files;
        request.limits.wall = context.time_left();
        request.min_tier = self.least_tier;
        request.sink = context.sink.clone();
        let workspace = self.config.binds.iter().map(|bind| &bind.target).find(|t| t.ends_with("workspace"));
        request.cwd = workspace.filter(|_| job.in_workspace).cloned();
        let sandbox = self.for_outputs(context.outputs.root()).await.map_err(not_run)?;
        let outcome = sandbox.run(request, context.cancel.clone()).await.map_err(not_run)?;
        answer(context, job.tool, outcome)
    }
}

fn not_run(error: Error) -> ToolError {
    match error {
        Error::Busy => ToolError::Busy(error.to_string()),
        Error::Invalid(message) | Error::Unexecuted { why: message, .. } => ToolError::failed(message),
        Error::Unavailable { reason, cure } => ToolError::Unavailable { message: reason, cure },
        other => ToolError::Unavailable {
            message: other.to_string(),
            cure: "run `skep doctor` to see what this machine lacks".to_owned(),
        },
    }
}

fn answer(context: &Context, tool: &str, outcome: Outcome) -> Result<CommandAnswer, ToolError> {
    // What cannot be kept is one file's misfortune, not the call's.
    let (mut outputs, mut skipped) = (Vec::new(), Vec::new());
    for file in &outcome.outputs {
        match context.outputs.keep(&file.path, &file.bytes) {
            Ok(path) => outputs.push(path),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    skipped.extend(outcome.skipped.iter().map(|(path, why)| format!("{OUTPUTS}/{}: {why}", path.display())));
    let stdout = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let json = (matches!(stdout.trim_start().as_bytes().first(), Some(b'{' | b'['))
        && room::values(&stdout) <= JSON_VALUES_MAX)
        .then(|| serde_json::from_str(&stdout));
    let exit_code = match outcome.end {
        End::Exit(code) => code,
        End::Signal(signal) => 128 + signal,
        _ => -1,
    };
    let answer = CommandAnswer {
        exit_code,
        stderr: String::from_utf8_lossy(&outcome.stderr).into_owned(),
        json: json.and_then(Result::ok),
        stdout,
        outputs,
        skipped,
        duration_ms: outcome.usage.wall.as_secs_f64() * 1e3,
    };
    let message = match outcome.end {
        End::Exit(0) => return Ok(answer),
        End::Exit(code) => {
            format!("{tool} exited with code {code}{}{}", last_line(&answer.stderr), read_only(&answer.stderr))
        }
        End::Signal(signal) => format!("{tool} was killed by signal {signal}"),
        End::OutputLimit => format!("{tool} printed more than allowed and was stopped"),
        End::MemoryLimit => format!("{tool} used more memory than allowed and was stopped"),
        End::Cancelled => return Err(ToolError::Cancelled),
        End::Timeout => {
            let (tool, after, detail) = (tool.to_owned(), context.allowed, members(answer));
            return Err(ToolError::TimedOut { tool, after, detail });
        }
    };
    Err(ToolError::Failed { message, detail: members(answer) })
}

fn members(answer: CommandAnswer) -> Map<String, Value> {
    match serde_json::to_value(answer) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// The last thing a failing program said is most often why.
fn last_line(stderr: &str) -> String {
    match stderr.trim_end().lines().last() {
        Some(line) => format!(": {}", line.chars().take(200).collect::<String>()),
        None => String::new(),
    }
}

/// What to do about it, if a program failed because it wanted to write to the workspace.
fn read_only(stderr: &str) -> &'static str {
    match stderr.contains("Read-only file system") {
        true => {
            "; commands cannot write to /workspace: let them write to /outputs, or work on a copy \
             (`cp -r /workspace /tmp/copy && cd /tmp/copy`)"
        }
        false => "",
    }
}

/// What a sandbox for this workspace and these outputs is made from.
pub fn config(workspace: &Dir, outputs: &Dir) -> Config {
    let bind = |dir: &Dir, inside: &str| skep_sandbox::Bind {
        source: dir.path().to_owned(),
        target: inside.into(),
        hidden: dir.hidden().0,
    };
    let binds = vec![bind(workspace, WORKSPACE_INSIDE), bind(outputs, INPUTS_INSIDE)];
    Config { binds, ..Config::default() }
}
