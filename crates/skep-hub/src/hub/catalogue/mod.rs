//! The tool catalogue: everything that an agent can do, under one roof, whatever listener the request came through.
//!
//! It says which tools there are and what a name stands for ([`Catalogue::resolve`]). Calling them is [`super::calls`]'s.

mod listing;
pub(crate) mod tools;

use std::{collections::BTreeMap, sync::Arc};

use skep_mcp::gateway::split_name;
use skep_tools::{
    error::ToolError,
    schema::{nearest_name, shorten},
    tool::Tool,
};

pub use self::listing::Listed;
use crate::hub::upstreams::{Server, Upstreams};

/// Characters of an unknown tool's name that are repeated to the caller.
const NAME_CHARS_SHOWN: usize = 100;

/// All tools of this process: Skep's own, and those of the MCP servers behind it.
pub struct Catalogue {
    tools: BTreeMap<&'static str, Arc<Tool>>,
    upstreams: Upstreams,
}

/// What the name of a tool stands for.
pub enum Target {
    /// A tool of Skep's own.
    Own(Arc<Tool>),
    /// A tool of an MCP server, which may have none of that name.
    Upstream {
        /// The server.
        server: Arc<Server>,
        /// The tool's name there.
        tool: String,
    },
}

impl skep_plan::Tools for Catalogue {
    fn known(&self) -> Vec<&Tool> {
        self.tools().collect()
    }

    fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name).map(|tool| &**tool)
    }

    fn is_of_server(&self, name: &str) -> bool {
        self.split(name).is_some()
    }
}

impl Catalogue {
    /// A catalogue of these tools. Of two with one name the later counts.
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Catalogue {
        let tools: BTreeMap<_, _> = tools.into_iter().map(|tool| (tool.name, Arc::new(tool))).collect();
        debug_assert!(tools.keys().all(|name| split_name(name).is_none()), "a name that could be a server's tool");
        Catalogue { tools, upstreams: Upstreams::default() }
    }

    /// The same with the tools of these servers.
    pub fn with_upstreams(self, upstreams: Upstreams) -> Catalogue {
        Catalogue { upstreams, ..self }
    }

    /// The servers whose tools are here.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// What this name stands for: `server__tool` for a server's, if there is that server, and all others are Skep's own. The
    /// gateway takes names apart by the same rule, [`split_name`].
    ///
    /// # Errors
    ///
    /// [`ToolError::Unknown`]. Whether a server has the tool, only the server knows.
    pub fn resolve(&self, name: &str) -> Result<Target, ToolError> {
        if let Some((server, tool)) = split_name(name)
            && let Ok(server) = self.upstreams.server(server)
        {
            return Ok(Target::Upstream { server, tool: tool.to_owned() });
        }
        self.tools.get(name).cloned().map(Target::Own).ok_or_else(|| self.unknown(name))
    }

    /// The server that a name of a tool belongs to, and its own name for it; `None` for a tool of Skep's own.
    pub fn split<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        split_name(name).filter(|(server, _)| self.upstreams.has(server))
    }

    /// The tool of this name, of Skep's own.
    pub fn get(&self, name: &str) -> Result<&Tool, ToolError> {
        self.tools.get(name).map(|tool| &**tool).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> ToolError {
        ToolError::Unknown {
            name: shorten(name, NAME_CHARS_SHOWN),
            nearest: nearest_name(name, self.tools.keys().copied()).map(str::to_owned),
        }
    }

    /// Skep's own tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values().map(|tool| &**tool)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_tools::{
        parts::Parts,
        sandboxed::{self, SandboxOnDemand},
        workspace::Dir,
    };

    use super::*;
    use crate::config::servers;

    fn catalogue() -> Catalogue {
        let here = tempfile::tempdir().unwrap();
        let dir = Dir::open(here.path()).unwrap();
        let tools = skep_builtin::all(Parts::new(SandboxOnDemand::new(sandboxed::config(&dir, &dir))));
        let server = servers::read_one("git", json!({ "command": "git-server" }), |_| None).unwrap();
        Catalogue::new(tools).with_upstreams(Upstreams::new([server], None))
    }

    #[test]
    fn a_name_is_a_servers_tool_where_there_is_that_server_and_else_one_of_skeps_own() {
        let catalogue = catalogue();
        let meant = |name: &str| match catalogue.resolve(name) {
            Ok(Target::Own(tool)) => tool.name.to_owned(),
            Ok(Target::Upstream { server, tool }) => format!("{tool} of {}", server.name()),
            Err(error) => error.code().to_owned(),
        };
        assert_eq!(meant("bash"), "bash");
        assert_eq!(meant("git__log"), "log of git");
        assert_eq!(meant("git__a__b"), "a__b of git", "the first separator ends the server's name");
        assert_eq!(meant("git_log"), "unknown_tool");
        assert_eq!(meant("hg__log"), "unknown_tool");
        assert_eq!(meant("git__"), " of git", "the server may say that it has none of that name");
    }

    #[test]
    fn no_tool_of_skeps_own_could_be_taken_for_a_servers() {
        assert!(catalogue().tools().all(|tool| split_name(tool.name).is_none()));
    }
}
