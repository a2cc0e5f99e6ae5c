//! The tool catalogue: everything that an agent can do, under one roof, whatever listener the request came through.
//!
//! Listeners never run a tool themselves: they go through [`Catalogue::call`], which is the list of steps that every call takes
//! (`call.rs`).

mod call;
mod passed;
pub(crate) mod tools;
mod upstream;

use std::{collections::BTreeMap, sync::LazyLock};

pub(crate) use passed::PassedOn;
use skep_tools::{
    error::ToolError,
    schema::{nearest_name, shorten},
    tool::Tool,
};
pub use upstream::Listed;
pub(crate) use upstream::Said;

use crate::hub::upstreams::Upstreams;

/// Characters of an unknown tool's name that are repeated to the caller.
const NAME_CHARS_SHOWN: usize = 100;

/// All tools of this process: Skep's own, and those of the MCP servers behind it.
pub struct Catalogue {
    tools: BTreeMap<&'static str, Tool>,
    /// Few runs need it.
    cache: LazyLock<call::Cache>,
    upstreams: Upstreams,
}

impl skep_plan::Tools for Catalogue {
    fn known(&self) -> Vec<&Tool> {
        self.tools.values().collect()
    }

    fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    fn is_of_server(&self, name: &str) -> bool {
        self.of_upstream(name).is_some()
    }
}

impl Catalogue {
    /// A catalogue of these tools. Of two with one name the later counts.
    pub fn new(tools: impl IntoIterator<Item = Tool>) -> Catalogue {
        Catalogue {
            tools: tools.into_iter().map(|tool| (tool.name, tool)).collect(),
            cache: LazyLock::new(call::cache),
            upstreams: Upstreams::default(),
        }
    }

    /// The tool of this name, of Skep's own.
    pub fn get(&self, name: &str) -> Result<&Tool, ToolError> {
        self.tools.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> ToolError {
        ToolError::Unknown {
            name: shorten(name, NAME_CHARS_SHOWN),
            nearest: nearest_name(name, self.tools.keys().copied()).map(str::to_owned),
        }
    }

    /// Skep's own tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }
}
