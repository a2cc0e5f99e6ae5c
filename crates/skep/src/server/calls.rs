//! A call, as every listener makes it: through the admission, into the catalogue.
//!
//! Tools of MCP servers run elsewhere, so their calls take no turn from ours: a server that hangs holds up its own callers.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use skep_core::policy::{self, Permit};
use skep_mcp::framing::Memories;
use skep_tools::{
    error::ToolError,
    room::{Room, Turn},
    tool::Call,
    workspace::{Context, Dir, Outputs},
};
use tokio_util::sync::CancellationToken;

use super::{
    call_log::{self, CallLog},
    outputs,
};
use crate::hub::{
    admission::{Admission, Refused},
    catalogue::{Catalogue, Said},
};

/// The tools, where they work, and how many run at once. One for all listeners.
pub(super) struct Calls {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) workspace: Dir,
    pub(super) outputs: Dir,
    pub(super) admission: Admission,
    pub(super) log: CallLog,
    /// Where large answers have their memory from.
    pub(super) answers: Memories,
}

/// Who calls.
pub(super) struct By {
    pub(super) permit: Permit<policy::Call>,
    /// The session or connection that the call belongs to.
    pub(super) session: Option<Arc<str>>,
}

/// What came of a call.
pub(super) struct Called {
    pub(super) result: Result<Said, ToolError>,
    /// What the answer takes of the memory until it is sent.
    pub(super) room: Room,
}

impl Calls {
    /// Wait for a turn if the tool is ours, take the arguments apart, and call it. Dropping the future cancels the call. The arguments
    /// are held until it ends, and with them their share of the memory.
    pub(super) async fn call<A: Send + 'static, E: Send + 'static>(
        &self,
        by: By,
        tool: String,
        arguments: A,
        parse: impl FnOnce(&A) -> Result<Value, E> + Send + 'static,
        deadline: Option<Duration>,
    ) -> Result<Result<Called, E>, Refused> {
        let (catalogue, workspace) = (Arc::clone(&self.catalogue), self.workspace.clone());
        let (hub_outputs, By { permit, session }) = (self.outputs.clone(), by);
        let is_forwarded = catalogue.of_upstream(&tool).is_some();
        let recording = self.log.begin(permit.actor(), tool.clone());
        let (memory, of_the_call) = (self.answers.of(&permit.actor().principal), permit.clone());
        let call = |cancel: CancellationToken, turn: Option<Arc<dyn Turn>>| async move {
            let call = Call { tool, deadline, arguments: parse(&arguments)? };
            let room = memory.map_or_else(Room::default, |memory| Room::new(memory, turn));
            let result = match outputs::of(&hub_outputs, &of_the_call.actor().principal, session.as_deref()) {
                Ok(outputs) => {
                    let context = Context::new(of_the_call, workspace, Outputs::new(outputs, ""), cancel);
                    let context = Context { session, room: room.clone(), ..context };
                    catalogue.call_for_text(call, context).await
                }
                Err(error) => Err(error),
            };
            drop(arguments);
            Ok(Called { result, room })
        };
        let called = match is_forwarded {
            false => self.admission.run(&permit, |cancel, turn| call(cancel, Some(turn))).await,
            true => match self.admission.pass(&permit) {
                Ok(pass) => Ok(call(pass.cancel.clone(), None).await),
                Err(refused) => Err(refused),
            },
        };
        recording.ended(match &called {
            Ok(Ok(called)) => call_log::outcome(&called.result),
            Ok(Err(_)) => "invalid_arguments",
            Err(refused) => refused.code(),
        });
        called
    }

    /// Room for an answer to this principal that comes of no call.
    pub(super) fn room(&self, principal: &str) -> Room {
        self.answers.of(principal).map_or_else(Room::default, |memory| Room::new(memory, None))
    }
}
