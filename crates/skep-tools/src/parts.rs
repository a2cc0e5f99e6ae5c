//! What the built-in tools are made from, and which they are: that is for the program to say, so that a change of a tool
//! compiles neither the hub nor the plans anew.

use skep_core::app::App;

use crate::{
    code,
    model::{self, Model},
    net,
    sandboxed::SandboxOnDemand,
    search,
    tool::Tool,
};

/// The built-in tools of a program.
pub type BuiltIns = fn(Parts) -> Vec<Tool>;

/// What the tools are made from.
pub struct Parts {
    /// Where commands run.
    pub sandbox: SandboxOnDemand,
    /// What reaches addresses that callers choose.
    pub web: net::Client,
    /// What answers questions and writes code.
    pub model: Model,
    /// Where the web and X are searched.
    pub search: search::Settings,
    /// What generated code may use.
    pub code: code::Policy,
    /// What agents share, where this process has a store.
    pub app: Option<App>,
}

impl Parts {
    /// Commands run in this sandbox, and nothing else is configured: no model, no engines, Skep's own rules.
    pub fn new(sandbox: SandboxOnDemand) -> Parts {
        Parts {
            sandbox,
            web: net::Client::new(&net::Settings::default()),
            model: Model::new(&model::Settings::default(), |_| None),
            search: search::Settings::default(),
            code: code::Policy::default(),
            app: None,
        }
    }
}

/// The tools that run in a sandbox, whatever their arguments are.
pub const SANDBOXED: [&str; 2] = ["bash", "execute_generated_code"];

/// The tools that work on what agents share, and so need a store, at least with some arguments.
pub const SHARING: [&str; 34] = [
    "ack_messages",
    "claim_file",
    "file_delete",
    "file_edit",
    "file_history",
    "file_read",
    "file_write",
    "join_collab",
    "leave_collab",
    "list_claims",
    "list_files",
    "list_members",
    "list_revisions",
    "log_step",
    "memory_delete",
    "memory_list",
    "memory_retrieve",
    "memory_search",
    "memory_store",
    "project_submit",
    "read_logs",
    "read_messages",
    "release_file",
    "renew_claim",
    "send_message",
    "task_cancel",
    "task_finish",
    "task_get",
    "task_list",
    "task_next",
    "task_progress",
    "task_release",
    "task_retry",
    "task_submit",
];
