//! The built-in tools, one file each: arguments, answer, handler. What they stand on is in [`skep_tools`].

mod ai;
mod bash;
mod claims;
mod collab;
mod compose;
#[cfg(test)]
mod dialects;
mod execute_generated_code;
mod fetch_url;
mod files;
mod gate;
mod generate_code;
mod http_request;
mod memory;
mod observe_screen;
mod page;
mod search;
mod tasks;
#[cfg(test)]
mod testing;

use skep_tools::{parts::Parts, shared::Shared, tool::Tool};

/// All built-in tools.
pub fn all(parts: Parts) -> Vec<Tool> {
    let Parts { sandbox, web, model, search, code, app } = parts;
    let shared = Shared(app);
    let gate = gate::Gate::new(code, sandbox.clone());
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
        Tool::new(files::ListRevisions { shared: shared.clone() }),
        Tool::new(memory::MemoryDelete { shared: shared.clone() }),
        Tool::new(memory::MemoryList { shared: shared.clone() }),
        Tool::new(memory::MemoryRetrieve { shared: shared.clone() }),
        Tool::new(memory::MemorySearch { shared: shared.clone() }),
        Tool::new(memory::MemoryStore { shared: shared.clone() }),
        Tool::new(observe_screen::ObserveScreen::new(sandbox)),
        Tool::new(tasks::ProjectSubmit { shared: shared.clone() }),
        Tool::new(claims::ReleaseFile { shared: shared.clone() }),
        Tool::new(claims::RenewClaim { shared: shared.clone() }),
        Tool::new(search::Search::new(&search, |name| std::env::var(name).ok())),
        Tool::new(tasks::TaskCancel { shared: shared.clone() }),
        Tool::new(tasks::TaskFinish { shared: shared.clone() }),
        Tool::new(tasks::TaskGet { shared: shared.clone() }),
        Tool::new(tasks::TaskList { shared: shared.clone() }),
        Tool::new(tasks::TaskNext { shared: shared.clone() }),
        Tool::new(tasks::TaskProgress { shared: shared.clone() }),
        Tool::new(tasks::TaskRelease { shared: shared.clone() }),
        Tool::new(tasks::TaskRetry { shared: shared.clone() }),
        Tool::new(tasks::TaskSubmit { shared }),
    ]
}

#[cfg(test)]
mod tests {
    use skep_tools::{
        parts::{SANDBOXED, SHARING},
        sandboxed::SandboxOnDemand,
    };

    use super::*;

    #[test]
    fn the_tools_that_are_said_to_run_in_a_sandbox_are_there() {
        let tools = all(Parts::new(SandboxOnDemand::new(Default::default())));
        assert!(SANDBOXED.iter().all(|name| tools.iter().any(|tool| tool.name == *name)));
    }

    #[test]
    fn the_tools_that_share_are_those_that_take_a_task_or_are_about_tasks() {
        let tools = all(Parts::new(SandboxOnDemand::new(Default::default())));
        let takes_task = |tool: &&Tool| tool.input_schema()["properties"].get("task_id").is_some();
        let is_of_tasks = |tool: &&Tool| tool.name.starts_with("task_") || tool.name == "project_submit";
        let shares = |tool: &&Tool| takes_task(tool) || is_of_tasks(tool);
        let mut names: Vec<&str> = tools.iter().filter(shares).map(|tool| tool.name).collect();
        names.sort_unstable();
        assert_eq!(names, SHARING);
    }
}
