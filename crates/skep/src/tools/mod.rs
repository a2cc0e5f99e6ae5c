//! The built-in tools, one file each: arguments, answer, handler.

mod bash;
mod sandboxed;
pub mod search;

pub use sandboxed::{SandboxOnDemand, config as sandbox_config};

use crate::catalogue::Tool;

/// What the tools are made from.
pub struct Parts {
    /// Where commands run.
    pub sandbox: SandboxOnDemand,
}

/// All built-in tools.
pub fn built_in(parts: Parts) -> Vec<Tool> {
    let Parts { sandbox } = parts;
    vec![Tool::new(bash::Bash { sandbox }), Tool::new(search::Search::new())]
}
