//! `skep`: the program is put together from the hub and the built-in tools. Neither knows the other, so a change of a tool
//! does not compile the hub anew.

use std::{process::ExitCode, time::Duration};

// It stands in for malloc, with which Rust allocates, too. As Rust's own allocator it would be asked by a longer way, which minds
// alignments that hardly anything has.
use mimalloc as _;
use skep_hub::cli::Program;

/// How long memory that was freed is kept, in case it is needed again. Answers have limits of memory, and what is left of
/// those that were sent or made before would come on top of them.
const FREED_MEMORY_KEPT: Duration = Duration::from_millis(10);

const PROGRAM: Program = Program {
    built_in: skep_builtin::all,
    // What it was built from: see `build.rs`.
    version: concat!(env!("CARGO_PKG_VERSION"), " ", env!("SKEP_BUILD")),
};

fn main() -> ExitCode {
    // First of all: this program may have been started as a helper of its own, for sandboxes or templates, or to become
    // an MCP server.
    skep_sandbox::init();
    skep_hub::hub::upstreams::init();
    skep_plan::template::renderer::init();
    skep_sandbox::keep_freed_memory_for(FREED_MEMORY_KEPT);
    skep_hub::cli::main(PROGRAM)
}
