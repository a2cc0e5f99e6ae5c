//! The built-in tools, one file each: arguments, answer, handler.

mod ai;
mod bash;
pub mod code;
mod compose;
mod fetch_url;
mod files;
mod http_request;
mod observe_screen;
mod page;
mod sandboxed;
pub mod search;
#[cfg(test)]
pub(crate) mod testing;

pub use sandboxed::{SandboxOnDemand, config as sandbox_config};

use crate::{catalogue::Tool, model::Model, net};

/// What the tools are made from.
pub struct Parts {
    /// Where commands run.
    pub sandbox: SandboxOnDemand,
    /// What reaches addresses that callers choose.
    pub web: net::Client,
    /// What answers questions.
    pub model: Model,
    /// Where the web and X are searched.
    pub search: search::Settings,
}

/// All built-in tools.
pub fn built_in(parts: Parts) -> Vec<Tool> {
    let Parts { sandbox, web, model, search } = parts;
    vec![
        Tool::new(ai::Ai { model }),
        Tool::new(bash::Bash { sandbox: sandbox.clone() }),
        Tool::new(compose::Compose),
        Tool::new(fetch_url::FetchUrl { client: web.clone() }),
        Tool::new(files::FileEdit::default()),
        Tool::new(files::FileRead),
        Tool::new(files::FileWrite),
        Tool::new(files::ListFiles),
        Tool::new(http_request::HttpRequest { client: web }),
        Tool::new(observe_screen::ObserveScreen::new(sandbox)),
        Tool::new(search::Search::new(&search, |name| std::env::var(name).ok())),
    ]
}
