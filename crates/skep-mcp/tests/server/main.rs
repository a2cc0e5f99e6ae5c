//! The server as its callers see it.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../examples/fixture/behind.rs"]
mod behind;
mod gateway;
mod http;
mod lines;
#[path = "../../examples/fixture/service.rs"]
mod service;
mod support;
mod tasks;
