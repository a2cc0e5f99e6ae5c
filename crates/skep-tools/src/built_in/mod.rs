//! The built-in tools, one file each: arguments, answer, handler.

mod ai;
mod bash;
mod claims;
pub mod code;
mod collab;
mod compose;
mod execute_generated_code;
mod fetch_url;
mod files;
mod generate_code;
mod http_request;
mod memory;
mod observe_screen;
mod page;
mod sandboxed;
pub mod search;
mod shared;
#[cfg(test)]
pub(crate) mod testing;

pub use claims::require_claim;
pub use files::stored::whole as whole_files;
pub use sandboxed::{SandboxOnDemand, Settings as SandboxSettings, config as sandbox_config};
use skep_core::app::App;

use crate::{
    model::{self, Model},
    net,
    tool::Tool,
};

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

/// The tools that work on what agents share, and so need a store, at least with some arguments.
pub const SHARING: [&str; 23] = [
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
    "log_step",
    "memory_delete",
    "memory_list",
    "memory_retrieve",
    "memory_search",
    "memory_store",
    "read_logs",
    "read_messages",
    "release_file",
    "renew_claim",
    "send_message",
];

/// All built-in tools.
pub fn all(parts: Parts) -> Vec<Tool> {
    let Parts { sandbox, web, model, search, code, app } = parts;
    let shared = shared::Shared(app);
    let gate = code::Gate::new(code, sandbox.clone());
    vec![
        Tool::new(ai::Ai { model: model.clone() }),
        Tool::new(bash::Bash { sandbox: sandbox.clone() }),
        Tool::new(claims::ClaimFile { shared: shared.clone() }),
        Tool::new(collab::AckMessages { shared: shared.clone() }),
        Tool::new(collab::JoinCollab { shared: shared.clone() }),
        Tool::new(collab::LeaveCollab { shared: shared.clone() }),
        Tool::new(collab::ListMembers { shared: shared.clone() }),
        Tool::new(collab::LogStep { shared: shared.clone() }),
        Tool::new(collab::ReadLogs { shared: shared.clone() }),
        Tool::new(collab::ReadMessages { shared: shared.clone() }),
        Tool::new(collab::SendMessage { shared: shared.clone() }),
        Tool::new(compose::Compose),
        Tool::new(execute_generated_code::ExecuteGeneratedCode { gate: gate.clone(), sandbox: sandbox.clone() }),
        Tool::new(fetch_url::FetchUrl { client: web.clone() }),
        Tool::new(files::FileDelete { shared: shared.clone() }),
        Tool::new(files::FileEdit::new(shared.clone())),
        Tool::new(files::FileHistory { shared: shared.clone() }),
        Tool::new(files::FileRead { shared: shared.clone() }),
        Tool::new(files::FileWrite { shared: shared.clone() }),
        Tool::new(generate_code::GenerateCode { gate, model }),
        Tool::new(http_request::HttpRequest { client: web }),
        Tool::new(claims::ListClaims { shared: shared.clone() }),
        Tool::new(files::ListFiles { shared: shared.clone() }),
        Tool::new(memory::MemoryDelete { shared: shared.clone() }),
        Tool::new(memory::MemoryList { shared: shared.clone() }),
        Tool::new(memory::MemoryRetrieve { shared: shared.clone() }),
        Tool::new(memory::MemorySearch { shared: shared.clone() }),
        Tool::new(memory::MemoryStore { shared: shared.clone() }),
        Tool::new(observe_screen::ObserveScreen::new(sandbox)),
        Tool::new(claims::ReleaseFile { shared: shared.clone() }),
        Tool::new(claims::RenewClaim { shared }),
        Tool::new(search::Search::new(&search, |name| std::env::var(name).ok())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_that_share_are_those_that_take_a_task() {
        let tools = all(Parts::new(SandboxOnDemand::new(Default::default())));
        let takes_task = |tool: &&Tool| tool.input_schema()["properties"].get("task_id").is_some();
        let mut names: Vec<&str> = tools.iter().filter(takes_task).map(|tool| tool.name).collect();
        names.sort_unstable();
        assert_eq!(names, SHARING);
    }
}
