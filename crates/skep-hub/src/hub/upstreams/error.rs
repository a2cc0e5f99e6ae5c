//! Why an MCP server gave no answer.

use std::time::Duration;

use skep_mcp::client::CallError;
use skep_tools::error::ToolError;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is no such server.
    #[error("there is no MCP server {name:?}{}", .help.as_ref().map_or(String::new(), |help| format!("; {help}")))]
    Unknown {
        /// The name.
        name: String,
        /// A name that may have been meant.
        help: Option<String>,
    },
    /// The configuration does not allow this tool.
    #[error("the tool {tool:?} of the MCP server {server:?} is not allowed here (tools.allow, tools.deny)")]
    Denied {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
    },
    /// The tool requires a claim that the caller does not have; in the words of tools.
    #[error("{0}")]
    NotClaimed(Box<ToolError>),
    /// All callers share it, so no one of them may end it.
    #[error(
        "you may restart only an MCP server that has a process of its own for each caller, and {server:?} is not one; only \
         who knows the hub's own token (SKEP_TOKEN) may restart the others"
    )]
    Shared {
        /// The server.
        server: String,
    },
    /// It cannot be started, or is not started for now.
    #[error("the MCP server {server:?} is not available: {reason}")]
    Unavailable {
        /// The server.
        server: String,
        /// Why.
        reason: String,
        /// When it will be tried again.
        retry_after: Duration,
    },
    /// It has not listed what it has, and is not waited for any longer. It goes on, and may be asked again.
    #[error("the MCP server {server:?} has not listed its tools yet ({state})")]
    Unlisted {
        /// The server.
        server: String,
        /// How it is doing, in one word.
        state: &'static str,
    },
    /// Too many calls wait for it, or too many callers have a process of their own.
    #[error("the MCP server {server:?} is busy: {reason}; try again later")]
    Busy {
        /// The server.
        server: String,
        /// With what.
        reason: String,
    },
    /// It was called, and there is no result.
    #[error("the MCP server {server:?}: {error}")]
    Call {
        /// The server.
        server: String,
        /// Why.
        error: CallError,
    },
}
