//! The listeners as clients see them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod browser;
mod events;
mod http;
mod hubs;
mod mcp;
mod problems;
mod refusals;
mod resources;
mod support;
mod tasks;
