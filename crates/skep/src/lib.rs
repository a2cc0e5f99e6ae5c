//! Skep: a hub for AI agents. This crate is the binary; it is the only place where everything meets.
//!
//! Read in this order: [`hub`] (what can be called, and the steps of a call), [`tools`] (one file a tool),
//! [`plan`] (what a run is to do), [`run`] (a swarm that does it), [`server`] (how others reach the hub).

// Futures of commands contain those of whatever they call, down to the database.
#![recursion_limit = "256"]
// Untrusted text must not reach a terminal as it is: print with `terminal::print` and `say!` instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod clients;
pub mod config;
pub mod document;
pub mod duration;
pub mod error;
pub mod executor;
pub mod hub;
pub mod model;
pub mod net;
pub mod plan;
pub mod remote;
pub mod room;
pub mod run;
pub mod running;
pub mod schema;
pub mod secret;
pub mod server;
pub mod size;
pub mod state;
pub mod terminal;
pub mod tool;
pub mod tools;
pub mod use_mcp_tool;
pub mod value;
pub mod workspace;
