//! The server as its callers see it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod http;
mod lines;
#[path = "../../examples/fixture/service.rs"]
mod service;
mod support;
