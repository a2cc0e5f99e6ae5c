//! A call, as every door makes it: through the admission, into the catalogue.
//!
//! Tools of MCP servers run elsewhere, so their calls take no turn from ours: a server that hangs holds up its own callers.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, Refused},
    call_log::{self, CallLog},
};
use crate::{
    catalogue::{Answer, Call, Catalogue, ToolError},
    workspace::{Context, Dir, Outputs},
};

/// The tools, where they work, and how many run at once. One behind all doors.
pub(super) struct Calls {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) workspace: Dir,
    pub(super) outputs: Dir,
    pub(super) admission: Admission,
    pub(super) log: CallLog,
}

impl Calls {
    /// Wait for a turn if the tool is ours, take the arguments apart, and call it. Dropping the future cancels the call. The arguments
    /// are held until it ends, and with them their share of the memory. `by`: see [`Context::caller`] and [`Context::principal`].
    pub(super) async fn call<A: Send + 'static, E: Send + 'static>(
        &self,
        by: (Arc<str>, Arc<str>),
        tool: String,
        arguments: A,
        parse: impl FnOnce(&A) -> Result<Value, E> + Send + 'static,
        deadline: Option<Duration>,
    ) -> Result<Result<Result<Answer, ToolError>, E>, Refused> {
        let (catalogue, workspace) = (Arc::clone(&self.catalogue), self.workspace.clone());
        let outputs = Outputs::new(self.outputs.clone(), "");
        let principal = Arc::clone(&by.1);
        let is_forwarded = catalogue.of_upstream(&tool).is_some();
        let recording = self.log.begin(&principal, tool.clone());
        let call = |cancel: CancellationToken| async move {
            let call = Call { tool, deadline, arguments: parse(&arguments)? };
            let called = catalogue.call(call, Context::new(workspace, outputs, cancel).of(by.0, by.1)).await;
            drop(arguments);
            Ok(called)
        };
        let called = match is_forwarded {
            false => self.admission.run(&principal, call).await,
            true => match self.admission.pass(&principal) {
                Ok(pass) => Ok(call(pass.cancel.clone()).await),
                Err(refused) => Err(refused),
            },
        };
        recording.ended(match &called {
            Ok(Ok(result)) => call_log::outcome(result),
            Ok(Err(_)) => "invalid_arguments",
            Err(refused) => refused.code(),
        });
        called
    }
}
