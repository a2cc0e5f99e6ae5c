//! The doors as clients see them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod browser;
mod http;
mod hubs;
mod mcp;
mod support;
mod tasks;
