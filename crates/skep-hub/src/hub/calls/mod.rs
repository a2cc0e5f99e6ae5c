//! Calls of tools: the steps that each takes, whoever makes it, over whatever interface, and wherever the tool is.
//!
//! 1. **Authorise.** A [`Permit`] to call is asked of the caller; nothing below can be reached without one.
//! 2. **Resolve** the name: a tool of Skep's own, or of an MCP server ([`Catalogue::resolve`]).
//! 3. **Wait for a turn**, within the caller's share ([`Admission`]). A tool of a server takes no turn here but a pass, as it runs
//!    elsewhere, and waits in the server's own queue: a server that hangs holds up its own callers.
//! 4. **Validate the arguments.** They are taken apart only now, as values take many times the memory of text. What is for a
//!    server and came over MCP passes as text: the server knows what its tools take.
//! 5. **Cached?** Answers to identical calls, for the tools that allow it.
//! 6. **Check the live claim**, for tools of servers whose settings require one, when the call's turn at the server has come.
//! 7. **Run under the deadline**, and cancel when the caller has gone or the hub stops.
//! 8. **Record**: who called what, how that ended, and how long it took ([`log`]).
//!
//! Callers that send and want values enter by [`Calls::call`] or [`Calls::call_in`], the gateway by [`Calls::forward`].

pub(crate) mod log;
pub(crate) mod outputs;
mod own;
mod payload;
pub(crate) mod totals;

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde_json::{Map, value::RawValue};
use skep_core::policy::{self, Actor, Permit, Right};
use skep_mcp::{client::CallError, framing::Memories, server::Members};
use skep_tools::{
    error::ToolError,
    room::Room,
    tool::{Answer, Call, Tool},
    workspace::{Context, Dir, Outputs},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::log::{CallLog, Ended};
pub use self::payload::{Malformed, Payload, Text, VALUES_MAX};
use super::{
    admission::{self, Admission, Refused},
    catalogue::{Catalogue, Target},
    shares::{self, MemoryShares},
    upstreams::{self, Options, Server, UpstreamError, passed::PassedOn, tool},
};

/// What all callers share, and what one of them may have of it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls that run, wait for their turn, or are under way at MCP servers.
    pub calls: admission::Limits,
    /// The part of what all callers share that one principal with a name may take alone: large messages, and calls that run,
    /// wait for their turn, are under way at MCP servers, or wait for input. More than 0, at most 1.
    pub principal_share: f64,
    /// Bytes of one message: a body, a line.
    pub message_bytes_max: usize,
    /// Bytes of all large messages ([`skep_mcp::framing::SMALL_BYTES`]) at every listener. One half is for what comes in, until it
    /// was worked on, the other for what goes out, from when it is made until it was sent: so that calls which wait until others
    /// have sent their answers never wait for one another.
    pub messages_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            calls: admission::Limits::default(),
            principal_share: shares::SHARE,
            message_bytes_max: 10 << 20,
            messages_bytes_max: 256 << 20,
        }
    }
}

/// The tools, where they work, and what all calls of them share.
pub struct Calls {
    /// The tools.
    pub catalogue: Arc<Catalogue>,
    /// How many run at once.
    pub admission: Admission,
    /// The last of them.
    pub(crate) log: CallLog,
    /// Where large messages of callers have their memory from.
    pub(crate) incoming: Arc<MemoryShares>,
    /// Where large answers have their memory from.
    pub(crate) answers: Memories,
    pub(crate) limits: Limits,
    /// The files that callers read.
    workspace: Dir,
    /// Where they write.
    outputs: Dir,
    /// Few processes need it.
    cache: Arc<LazyLock<own::Cache>>,
}

/// A call of a tool, as it came.
#[derive(Debug)]
pub struct Request {
    /// The tool's name.
    pub tool: String,
    /// Its arguments, an object.
    pub arguments: Payload,
    /// How long it may take; `None` for the tool's own deadline.
    pub deadline: Option<Duration>,
    /// How its answer is wanted.
    pub form: Form,
}

/// How an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As values.
    Values,
    /// To be handed on: as text, where taking it apart can be spared.
    Text,
}

impl From<Call> for Request {
    fn from(Call { tool, arguments, deadline }: Call) -> Request {
        Request { tool, arguments: Payload::Value(arguments), deadline, form: Form::Values }
    }
}

/// What came of a call that was made.
pub struct Called {
    /// What the tool answered.
    pub(crate) result: Result<Said, ToolError>,
    /// What the answer takes of the memory until it is sent.
    pub(crate) room: Room,
}

/// What came of work that was done as a tool does it.
pub(crate) struct Performed<T> {
    pub(crate) result: Result<T, ToolError>,
    /// What the answer takes of the memory until it is sent.
    pub(crate) room: Room,
}

/// What a tool answered.
pub(crate) enum Said {
    /// As values.
    Values(Answer),
    /// As the text of these values.
    Text(PassedOn),
}

impl Said {
    /// The answer as values.
    pub(crate) fn into_answer(self) -> Result<Answer, ToolError> {
        match self {
            Said::Values(answer) => Ok(answer),
            Said::Text(text) => text.into_answer(),
        }
    }
}

/// Why no tool was called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCalled {
    /// The hub takes no such call, or not now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its arguments cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<NotCalled> for ToolError {
    fn from(error: NotCalled) -> ToolError {
        match error {
            NotCalled::Refused(Refused::Busy | Refused::OverShare(..)) => ToolError::Busy(error.to_string()),
            NotCalled::Refused(Refused::Draining) => ToolError::Cancelled,
            NotCalled::Refused(Refused::Denied(denied)) => ToolError::Denied(denied.to_string()),
            NotCalled::Refused(Refused::Panicked) | NotCalled::Malformed(_) => ToolError::failed(error.to_string()),
        }
    }
}

/// Why a server behind the hub gave no result.
#[derive(Debug)]
pub(crate) enum NotForwarded {
    /// It was not asked.
    Refused(Refused),
    /// The hub stopped meanwhile.
    Cancelled,
    /// It was asked, or could not be.
    Upstream(UpstreamError),
}

impl Calls {
    /// Calls of these tools, for callers that these limits hold for. They read from `workspace` and write to `outputs`, where each
    /// principal with a name has a place of its own.
    pub fn new(catalogue: Catalogue, workspace: Dir, outputs: Dir, limits: Limits) -> Calls {
        let half =
            || MemoryShares::new(limits.messages_bytes_max / 2, limits.principal_share, limits.message_bytes_max);
        let (incoming, outgoing) = (half(), half());
        let answers = Memories::new(move |principal| outgoing.of(principal));
        catalogue.upstreams().count_answers(&answers);
        Calls::of(catalogue, workspace, outputs, limits, incoming, answers)
    }

    /// Calls that nobody but this process makes, which bounds them itself: the agents of a run, a command.
    pub fn within(catalogue: Catalogue, workspace: Dir, outputs: Dir) -> Calls {
        let limits = Limits { calls: admission::Limits::none(), principal_share: 1.0, ..Limits::default() };
        let incoming = MemoryShares::new(limits.messages_bytes_max, limits.principal_share, limits.message_bytes_max);
        Calls::of(catalogue, workspace, outputs, limits, incoming, Memories::default())
    }

    fn of(
        catalogue: Catalogue,
        workspace: Dir,
        outputs: Dir,
        limits: Limits,
        incoming: MemoryShares,
        answers: Memories,
    ) -> Calls {
        Calls {
            catalogue: Arc::new(catalogue),
            admission: Admission::new(limits.calls.clone(), limits.principal_share),
            log: CallLog::default(),
            incoming: Arc::new(incoming),
            answers,
            limits,
            workspace,
            outputs,
            cache: Arc::new(LazyLock::new(own::cache)),
        }
    }

    /// The proof that this actor has a right. `tool`: the tool that it wants to call, if it does, for the log.
    pub(crate) fn authorise<R: Right>(&self, actor: &Arc<Actor>, tool: Option<&str>) -> Result<Permit<R>, Refused> {
        let permit = actor.permit().map_err(Refused::from);
        if let (Err(refused), Some(tool)) = (&permit, tool) {
            self.log.begin(actor, tool.to_owned()).ended(*refused);
        }
        permit
    }

    /// Call a tool for an actor, in this session if the call belongs to one. Dropping the future cancels the call.
    pub async fn call(
        &self,
        permit: Permit<policy::Call>,
        session: Option<Arc<str>>,
        request: Request,
    ) -> Result<Called, NotCalled> {
        let actor = permit.actor();
        let context = match outputs::of(&self.outputs, &actor.principal, session.as_deref()) {
            Ok(outputs) => {
                let cancel = self.admission.stopped().clone();
                let context = Context::new(permit, self.workspace.clone(), Outputs::new(outputs, ""), cancel);
                Context { session, ..context }
            }
            Err(error) => {
                self.log.begin(actor, request.tool).ended(&error);
                return Ok(Called { result: Err(error), room: Room::default() });
            }
        };
        self.call_in(context, request).await
    }

    /// Call a tool in this context: for its caller, in its directories, and until its token is cancelled.
    pub async fn call_in(&self, context: Context, request: Request) -> Result<Called, NotCalled> {
        let mut recording = self.log.begin(context.permit.actor(), request.tool.clone());
        let called = match self.catalogue.resolve(&request.tool) {
            Ok(Target::Own(tool)) => {
                recording.is_of(&tool);
                self.run(tool, context, request).await
            }
            Ok(Target::Upstream { server, tool }) => self.ask(&server, &tool, context, request).await,
            Err(_) if self.admission.is_draining() => Err(Refused::Draining.into()), // another hub may know it
            Err(unknown) => Ok(Called { result: Err(unknown), room: Room::default() }),
        };
        if called.as_ref().is_ok_and(|called| called.room.has_waited()) {
            recording.has_waited();
        }
        recording.ended(match &called {
            Ok(Called { result: Ok(Said::Values(Answer { cached: true, .. })), .. }) => Ended::well("cached"),
            Ok(Called { result: Ok(_), .. }) => Ended::well("ok"),
            Ok(Called { result: Err(error), .. }) => error.into(),
            Err(NotCalled::Refused(refused)) => (*refused).into(),
            Err(NotCalled::Malformed(_)) => Ended::well("invalid_arguments"),
        });
        called
    }

    /// Do what one of Skep's own tools does for a caller that wants it in another form than JSON, as the contents of a file: within
    /// the same turns and deadline, recorded under the tool's name, and not at all where the tool is switched off.
    pub(crate) async fn perform<T, F>(
        &self,
        permit: &Permit<policy::Call>,
        tool: &'static str,
        work: impl FnOnce(Room) -> F,
    ) -> Result<Performed<T>, Refused>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ToolError>> + Send + 'static,
    {
        let mut recording = self.log.begin(permit.actor(), tool.to_owned());
        let performed = match self.catalogue.get(tool) {
            Err(unknown) => Ok(Performed { result: Err(unknown), room: Room::default() }),
            Ok(found) => {
                recording.is_of(found);
                let (after, memory) = (found.deadline, self.answers.of(&permit.actor().principal));
                let run = |cancel: CancellationToken, turn| {
                    let room = memory.map_or_else(Room::default, |memory| Room::new(memory, Some(turn)));
                    let work = work(room.clone());
                    async move {
                        let timed = cancel.run_until_cancelled(timeout(after, work)).await;
                        let too_late = || ToolError::TimedOut { tool: tool.to_owned(), after, detail: Map::new() };
                        let result =
                            timed.map_or(Err(ToolError::Cancelled), |done| done.unwrap_or_else(|_| Err(too_late())));
                        Performed { result, room }
                    }
                };
                self.admission.run(permit, self.admission.stopped(), |cancel, turn| run(cancel, turn)).await
            }
        };
        recording.ended(match &performed {
            Ok(Performed { result: Ok(_), .. }) => Ended::well("ok"),
            Ok(Performed { result: Err(error), .. }) => error.into(),
            Err(refused) => (*refused).into(),
        });
        performed
    }

    /// The same for a caller in this process that wants values and nothing else.
    pub async fn values(&self, context: Context, call: Call) -> Result<Answer, ToolError> {
        self.call_in(context, call.into()).await?.result?.into_answer()
    }

    /// Run a tool of Skep's own. The arguments are held until it ends, and with them their share of the memory.
    async fn run(&self, tool: Arc<Tool>, context: Context, request: Request) -> Result<Called, NotCalled> {
        let Request { mut arguments, deadline, .. } = request;
        let (memory, cache) = (self.answers.of(context.principal()), Arc::clone(&self.cache));
        let (permit, stop) = (context.permit.clone(), context.cancel.clone());
        let run = |cancel: CancellationToken, turn| async move {
            let values = arguments.take()?;
            let room = memory.map_or_else(Room::default, |memory| Room::new(memory, Some(turn)));
            let context = Context { cancel, room: room.clone(), ..context };
            let result = own::run(&tool, &cache, values, deadline, context).await.map(Said::Values);
            drop(arguments);
            Ok(Called { result, room })
        };
        self.admission.run(&permit, &stop, |cancel, turn| run(cancel, turn)).await?
    }

    /// Ask a server to run one of its tools.
    async fn ask(
        &self,
        server: &Arc<Server>,
        tool: &str,
        context: Context,
        request: Request,
    ) -> Result<Called, NotCalled> {
        let Request { tool: name, mut arguments, deadline, form } = request;
        let room = self.room(context.principal());
        let context = Context { room: room.clone(), ..context };
        let (params, options) = tool::request(server, tool, &arguments.take()?, deadline, &context);
        let passed = self.pass(&context.permit, server, tool::METHOD, params, options);
        let result = match context.cancel.run_until_cancelled(passed).await {
            Some(Ok(called)) => said(&name, called.result, form, &context).await,
            Some(Err(NotForwarded::Refused(refused))) => return Err(refused.into()),
            Some(Err(NotForwarded::Upstream(error))) => Err(tool::failed(&name, error)),
            Some(Err(NotForwarded::Cancelled)) | None => Err(ToolError::Cancelled),
        };
        drop(arguments);
        Ok(Called { result, room })
    }

    /// Hand a request on to a server as it is, and its result back. `tool`: the name here of the tool that it calls, if it does.
    pub(crate) async fn forward<R: Right>(
        &self,
        permit: &Permit<R>,
        tool: Option<String>,
        server: &Arc<Server>,
        method: &str,
        params: Members<'static>,
        options: Options,
    ) -> Result<Box<RawValue>, NotForwarded> {
        let recording = tool.map(|tool| self.log.begin(permit.actor(), tool));
        let passed = self.pass(permit, server, method, params, options).await;
        if let Some(recording) = recording {
            recording.ended(ended(&passed));
        }
        passed.map(|called| called.result)
    }

    /// What every request to a server passes: its caller's share, the server's queue and times, and the end of the hub.
    async fn pass<R: Right>(
        &self,
        permit: &Permit<R>,
        server: &Arc<Server>,
        method: &str,
        params: Members<'static>,
        options: Options,
    ) -> Result<upstreams::Called, NotForwarded> {
        let pass = self.admission.pass(permit).map_err(NotForwarded::Refused)?;
        let calling = pin!(server.call(method, params, options));
        tokio::select! {
            biased;
            called = calling => called.map_err(NotForwarded::Upstream),
            () = pass.cancel.cancelled() => Err(NotForwarded::Cancelled),
        }
    }

    /// Room for an answer to this principal that holds up no turn.
    pub(crate) fn room(&self, principal: &str) -> Room {
        self.answers.of(principal).map_or_else(Room::default, |memory| Room::new(memory, None))
    }
}

/// What a server's result says, in the form that is wanted.
async fn said(name: &str, result: Box<RawValue>, form: Form, context: &Context) -> Result<Said, ToolError> {
    let result = match form {
        Form::Values => result,
        Form::Text => match PassedOn::new(result) {
            Ok(text) => return Ok(Said::Text(text)),
            Err(result) => result,
        },
    };
    let value = tool::take_apart(name, &result, context).await?;
    Ok(Said::Values(Answer { value, cached: false }))
}

/// How a request that went on to a server ended. What the tool itself calls an error is one, and no fault.
fn ended(passed: &Result<upstreams::Called, NotForwarded>) -> Ended {
    let error = match passed {
        Ok(upstreams::Called { has_failed: true, .. }) => return Ended::well("failed"),
        Ok(_) => return Ended::well("ok"),
        Err(NotForwarded::Refused(refused)) => return (*refused).into(),
        Err(NotForwarded::Cancelled) => return Ended::well("cancelled"),
        Err(NotForwarded::Upstream(error)) => error,
    };
    let (outcome, is_fault) = match error {
        UpstreamError::Unknown { .. } => ("unknown_tool", false),
        UpstreamError::Denied { .. } | UpstreamError::Shared { .. } => ("denied", false),
        UpstreamError::NotClaimed(error) => return (&**error).into(),
        UpstreamError::Busy { .. } => ("busy", true),
        UpstreamError::Unavailable { .. } | UpstreamError::Unlisted { .. } => ("unavailable", true),
        UpstreamError::Call { error: CallError::TimedOut(_), .. } => ("timed_out", true),
        UpstreamError::Call { error: CallError::Rpc(_), .. } => ("failed", false),
        UpstreamError::Call { .. } => ("failed", true),
    };
    Ended { outcome, is_fault }
}
