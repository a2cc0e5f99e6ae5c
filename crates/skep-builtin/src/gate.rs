//! What a program has to pass before it is kept or run: it is well-formed, and policy allows it.

use std::sync::Arc;

use skep_sandbox::{InFile, Run};
use skep_tools::{
    code::{Language, Policy, PolicyFault, SyntaxFault, check},
    error::{Fault, ToolError},
    sandboxed::{Job, SandboxOnDemand},
    workspace::Context,
};

/// Name of a script inside the sandbox while Bash looks at it.
const SCRIPT: &str = "/tmp/script.sh";

/// Lets programs through; cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    policy: Arc<Policy>,
    /// Where Bash is asked what our grammar of it does not know for sure.
    sandbox: SandboxOnDemand,
}

impl Gate {
    pub(crate) fn new(policy: Policy, sandbox: SandboxOnDemand) -> Gate {
        Gate { policy: Arc::new(policy), sandbox }
    }

    /// An error that lists every fault with its line, if there is one. `tool` and `argument` are where the program
    /// came in.
    pub(crate) async fn pass(
        &self,
        context: &Context,
        (tool, argument): (&'static str, &str),
        language: Language,
        source: &str,
    ) -> Result<(), ToolError> {
        let (policy, text) = (Arc::clone(&self.policy), source.to_owned());
        // A parser may take its time over a long program.
        let judged = tokio::task::spawn_blocking(move || (check(language, &text), policy.check(language, &text))).await;
        let (syntax, uses) =
            judged.map_err(|error| ToolError::failed(format!("the code cannot be checked: {error}")))?;
        if syntax.iter().any(|fault| fault.certain)
            || !syntax.is_empty() && !self.bash_accepts(context, tool, source).await?
        {
            let told = |fault: &SyntaxFault| Fault { pointer: format!("/{argument}"), message: fault.to_string() };
            return Err(ToolError::InvalidArguments(syntax.iter().map(told).collect()));
        }
        match uses.is_empty() {
            true => Ok(()),
            false => Err(denied(language, &uses)),
        }
    }

    /// Whether Bash itself finds a script well-formed.
    async fn bash_accepts(&self, context: &Context, tool: &'static str, source: &str) -> Result<bool, ToolError> {
        let run = Run::Argv(["bash", "-n", SCRIPT].map(Into::into).to_vec());
        let files = vec![InFile { path: SCRIPT.into(), bytes: source.as_bytes().to_vec() }];
        match self.sandbox.run(context, Job { files, ..Job::new(tool, run) }).await {
            Ok(_) => Ok(true),
            // Bash has faults to find too, or is not there: ours are told.
            Err(ToolError::Failed { .. } | ToolError::Unavailable { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn denied(language: Language, uses: &[PolicyFault]) -> ToolError {
    let list: Vec<String> = uses.iter().map(ToString::to_string).collect();
    ToolError::Denied(format!(
        "policy does not allow this code: {}; write it without these, or have the operator allow them in \
         [code.{language}] of skep.toml",
        list.join("; ")
    ))
}
