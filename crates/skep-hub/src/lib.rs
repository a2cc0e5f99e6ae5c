//! Skep: a hub for AI agents. This crate is all of the program but the built-in tools, which `skep` brings in.
//!
//! Read in this order: [`hub`] (what can be called, and the steps of a call), [`skep_tools`] (what a tool is),
//! [`skep_plan`] (what a run is to do), [`run`] (a swarm that does it), [`worker`] (claims its tasks and does them),
//! [`server`] (how others reach the hub).

// Futures of commands contain those of whatever they call, down to the database.
#![recursion_limit = "256"]
// Untrusted text must not reach a terminal as it is: print with `terminal::print` and `say!` instead.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod api;
pub mod cli;
pub mod clients;
pub mod config;
mod events;
pub mod executor;
pub mod hub;
pub mod problem;
pub mod remote;
pub mod run;
pub mod running;
pub mod secret;
pub mod server;
pub mod state;
pub mod terminal;
pub mod use_mcp_tool;
pub mod worker;
