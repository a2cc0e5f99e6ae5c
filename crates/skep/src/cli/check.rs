//! `skep check`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{Common, FAILED, print, say};
use crate::{config::Overrides, hive, plan, terminal};

/// Check plans, configuration and code without running anything: every fault at once, with line and column
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Plans (.yaml), skep.toml, mcp-config.yaml, or code (.py, .js, .sh, .rs)
    #[arg(required_unless_present = "schema", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A line of JSON for each fault
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of plans instead, for editors
    #[arg(long)]
    schema: bool,
}

pub(super) fn check(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.schema {
        print(&format!("{:#}\n", plan::json_schema()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = common.settings(Overrides::default())?;
    let here = hive::workspace(&settings.workspace)?;
    let (catalogue, _) = hive::catalogue(&settings, &here, &here);
    let mut faults = 0;
    for file in &arguments.files {
        let diagnostics = plan::check::check_file(file, &catalogue);
        faults += diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        for diagnostic in diagnostics {
            let line = if arguments.json {
                serde_json::to_string(&diagnostic)?
            } else {
                terminal::line(&diagnostic.to_string()).into_owned()
            };
            print(&format!("{line}\n"))?;
        }
    }
    if arguments.json {
        print(&format!("{}\n", json!({ "files": arguments.files.len(), "faults": faults })))?;
    } else if faults == 0 {
        say!("{} checked, no faults", count(arguments.files.len(), "file"));
    } else {
        say!("{} in {}", count(faults, "fault"), count(arguments.files.len(), "file"));
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
