//! `bash`: a script in a fresh sandbox.

use skep_sandbox::Run;
use skep_tools::sandboxed::{CommandAnswer, Job, SandboxOnDemand};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct Bash {
    pub(super) sandbox: SandboxOnDemand,
}

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// The script.
    #[garde(length(chars, min = 1, max = 1_000_000))]
    command: String,
    /// Standard input of the script.
    #[serde(default)]
    stdin: String,
}

impl BuiltIn for Bash {
    const NAME: &'static str = "bash";
    const DESCRIPTION: &'static str = "Run a bash script in a fresh, isolated sandbox without network. It starts in \
        /workspace (the user's files, read-only); earlier outputs are in /inputs; what it writes to /outputs is kept. \
        Nothing else survives the call. Give back what it printed and its exit code.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: false, destructive_hint: false, idempotent_hint: false, open_world_hint: false };
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = CommandAnswer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<CommandAnswer, ToolError> {
        let job = Job { stdin: arguments.stdin.into_bytes(), ..Job::new(Self::NAME, Run::Bash(arguments.command)) };
        self.sandbox.run(context, job).await
    }
}
