//! `skep check`.

mod file;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use self::file::{Checked, check_file};
use super::{Common, FAILED, print, say};
use crate::{
    config::{BadSettings, Overrides, Settings},
    hub::{self, Callers, Hub},
    terminal,
};

/// Check plans, configuration and code without running anything: every fault at once, with line and column
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Plans, settings (skep.toml, mcp-config.yaml), MCP servers (mcp.json, Codex's config.toml), or code (.py, .js, .sh, .rs)
    #[arg(required_unless_present = "schema", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A line of JSON for each fault
    #[arg(long)]
    json: bool,
    /// File that lists MCP servers whose tools plans may call, as an MCP client writes it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// Print the JSON Schema of plans instead, for editors
    #[arg(long)]
    schema: bool,
}

pub(super) fn check(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.schema {
        print(&format!("{:#}\n", skep_plan::json_schema()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings(common, &arguments)?;
    let here = hub::workspace(&settings, &settings.workspace)?;
    let hub = Hub::new(&settings, None, Callers::Process, &here, &here);
    let mut faults = 0;
    let mut kinds = Vec::new();
    for file in &arguments.files {
        let Checked { kind, problems: diagnostics } = check_file(file, hub.catalogue());
        if let Some(kind) = kind {
            if !arguments.json {
                say!("{}: {kind}", terminal::line(&file.display().to_string()));
            }
            kinds.push(json!({ "file": file.display().to_string(), "kind": kind.to_string() }));
        }
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
        print(&format!("{}\n", json!({ "files": arguments.files.len(), "faults": faults, "kinds": kinds })))?;
    } else if faults == 0 {
        say!("{} checked, no faults", count(arguments.files.len(), "file"));
    } else {
        say!("{} in {}", count(faults, "fault"), count(arguments.files.len(), "file"));
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The settings; the defaults if they cannot be used, because what is wrong with them may be what is to be checked.
fn settings(common: Common, arguments: &Arguments) -> anyhow::Result<Settings> {
    let overrides = Overrides { mcp_config: arguments.mcp_config.clone(), ..Overrides::default() };
    let defaults = Settings::without_files(common.overrides(overrides.clone()));
    match common.settings(overrides) {
        Err(error) if error.downcast_ref::<BadSettings>().is_some_and(|bad| !bad.is_usage()) => {
            say!("skep: {error:#}\n  what is checked, is checked with the defaults");
            Ok(defaults?)
        }
        settings => settings,
    }
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
