//! Commands around the hub and the command line itself, as a person types them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod connect;
mod directories;
mod doctor;
mod files;
mod manual;
mod memory;
mod messages;
mod page;
mod plan;
mod status;
mod steps;
#[path = "../support/mod.rs"]
mod support;
