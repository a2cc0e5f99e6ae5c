//! Every promise of the store, on every database.
//!
//! A test gets an [`App`] for each database (`support.rs`). What only one database can promise, or must be told apart,
//! asks for an address itself. What takes more than the operations is tested in `src/db/tests.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod audit;
mod blobs;
mod broken;
mod claims;
mod connections;
mod cuts;
mod directories;
mod disk;
mod durable;
mod files;
mod follow;
mod graphs;
mod hubs;
mod leases;
mod log;
mod mcp_tasks;
mod memory;
mod messages;
mod old;
mod order;
mod processes;
mod redis;
mod retention;
mod runs;
mod schedules;
mod sessions;
mod steps;
mod support;
mod tasks;
mod tls;

use self::support::*;
