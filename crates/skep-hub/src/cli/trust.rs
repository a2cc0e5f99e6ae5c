//! `skep trust`.

use std::{
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use skep_core::Timestamp;
use skep_tools::document::{self, FILE_BYTES_MAX};

use super::{Common, FAILED, print, say};
use crate::{
    config::{
        self, Found,
        trust::{self, Standing, Trust, Trusted},
    },
    events::rfc3339,
    run::now,
    terminal::line,
};

/// Bytes of a file that is shown to a person, who must be able to see all of it.
const SHOWN_BYTES_MAX: u64 = 32 << 10;

/// Look at a skep.toml that came with a directory, and let all of it have effect from now on
///
/// A skep.toml that Skep finds in the current directory may be somebody else's. Until it is trusted, it sets a few harmless
/// keys (run.actors, run.observers, tools.deny, tools.timeout, log.level, log.format), and the rest has no effect. What is
/// trusted is the file as it is now: when it changes, it has to be looked at again. Programs that it names are not looked at.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep trust                            # the file in the current directory
  skep trust --list
  skep trust --revoke ~/src/project/skep.toml")]
pub(super) struct Arguments {
    /// The file, which must be called skep.toml [default: ./skep.toml]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// List the files that are trusted
    #[arg(long, conflicts_with_all = ["yes", "revoke", "file"])]
    list: bool,
    /// Trust it no more
    #[arg(long, conflicts_with = "yes")]
    revoke: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn trust(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let home = common.home_without_found()?;
    let mut list = Trust::read(&home).with_context(|| unreadable(&home))?;
    if arguments.list {
        return show_list(&list, arguments.json);
    }
    let file = arguments.file.unwrap_or_else(|| config::FILE.into());
    if file.file_name().is_none_or(|name| name != config::FILE) {
        let message =
            format!("only a file that is called {} is found by itself; name another with --config", config::FILE);
        return Err(super::Usage::of(message).into());
    }
    let place = trust::place(&file).with_context(|| file.display().to_string())?;
    if arguments.revoke {
        let was_trusted = list.remove(&place);
        if was_trusted {
            list.write(&home).with_context(|| unreadable(&home))?;
        }
        return tell(&place, if was_trusted { "revoked" } else { "not_trusted" }, arguments.json);
    }
    let bytes = document::read_bytes(&place, SHOWN_BYTES_MAX)
        .map_err(|message| anyhow::anyhow!("{} {message}", file.display()))?;
    let found = Found::of(&place, &bytes)?;
    if list.standing(&place, &bytes) == Standing::Trusted {
        return tell(&place, "trusted", arguments.json);
    }
    if !arguments.json {
        show(&found);
    }
    if !arguments.yes && !is_wanted(&place)? {
        say!("it is not trusted; what is marked has no effect");
        return Ok(ExitCode::from(FAILED));
    }
    list.add(place.clone(), &bytes, now());
    list.write(&home).with_context(|| unreadable(&home))?;
    tell(&place, "trusted", arguments.json)
}

/// Show the file, with what has an effect only if it is trusted marked and explained.
fn show(found: &Found) {
    for (index, (is_marked, text)) in found.lines().into_iter().enumerate() {
        say!("{} {:4}  {}", if is_marked { '!' } else { ' ' }, index + 1, line(text));
    }
    let rest = found.rest();
    if rest.is_empty() {
        say!("nothing in it needs to be trusted");
        return;
    }
    let rest: String = rest.iter().map(|(key, meaning)| format!("\n  {key:<24}  {meaning}")).collect();
    say!("what is marked has an effect only if the file is trusted:{rest}");
}

fn unreadable(home: &Path) -> String {
    format!("the list of trusted files in {} cannot be used", home.display())
}

/// Ask on the terminal. Programs have no terminal, and say `--yes`.
fn is_wanted(place: &Path) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(super::Usage::of("there is no terminal to ask on; look at the file, then say --yes").into());
    }
    say!("trust {} as it is now? [y/N]", line(&place.display().to_string()));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn tell(place: &Path, status: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        print(&format!("{}\n", json!({ "path": place, "status": status })))?;
    } else {
        let shown = line(&place.display().to_string()).into_owned();
        match status {
            "trusted" => say!("{shown} is trusted until it changes"),
            "revoked" => say!("{shown} is not trusted any more"),
            _ => say!("{shown} was not trusted"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_list(list: &Trust, as_json: bool) -> anyhow::Result<ExitCode> {
    let state = |trusted: &Trusted| match document::read_bytes(&trusted.path, FILE_BYTES_MAX) {
        Err(_) => "gone",
        Ok(bytes) if list.standing(&trusted.path, &bytes) == Standing::Trusted => "trusted",
        Ok(_) => "changed",
    };
    let since = |trusted: &Trusted| rfc3339(Timestamp(trusted.since_us));
    let text: String = match as_json {
        true => {
            let all =
                list.files().iter().map(|one| json!({ "path": one.path, "status": state(one), "since": since(one) }));
            format!("{:#}\n", all.collect::<serde_json::Value>())
        }
        false if list.files().is_empty() => "no file is trusted\n".to_owned(),
        false => list
            .files()
            .iter()
            .map(|one| {
                let path = one.path.display().to_string();
                format!("{:<8}  {:.10}  {}\n", state(one), since(one), line(&path))
            })
            .collect(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
