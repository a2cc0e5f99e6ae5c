//! `skep`: see the library for the map.

// Futures of commands contain those of whatever they call, down to the database.
#![recursion_limit = "256"]

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
// It stands in for malloc, with which Rust allocates, too. As Rust's own allocator it would be asked by a longer way, which minds
// alignments that hardly anything has.
use mimalloc as _;

/// How long memory that was freed is kept, in case it is needed again. Answers have limits of memory, and what is left of
/// those that were sent or made before would come on top of them.
const FREED_MEMORY_KEPT: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    // First of all: this program may have been started as a helper of its own, for sandboxes or templates, or to become
    // an MCP server.
    skep_sandbox::init();
    skep::hub::upstreams::init();
    skep_plan::template::renderer::init();
    skep_sandbox::keep_freed_memory_for(FREED_MEMORY_KEPT);
    let cli = skep::cli::Cli::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli.execute()));
    match done {
        Ok(code) => code,
        Err(error) => {
            skep::terminal::print_message(format_args!("skep: {error:#}"));
            skep::cli::exit_code(&error)
        }
    }
}
