//! `skep claims`.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use skep_tools::{duration::Span, error::ToolError, tool::Answer};

use super::{
    Common, FAILED,
    files::{author_of, items, text_of, time_of},
    print, say, shared,
    tools::show,
};

/// Who has claimed which files of a task
///
/// Agents claim with the tools claim_file, renew_claim and release_file, and see the same as here with list_claims.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep claims ls --task t1
  skep claims ls 'src/**' --task t1
  skep claims take 'docs/**' --ttl 10m --wait 1m --task t1
  skep claims release 7 --force --task t1")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: shared::Place,
    /// As JSON, with all that is known
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the claims, held and waiting, in the order in which they were asked for
    Ls {
        /// Only those that have a file in common with this path or glob
        path: Option<String>,
    },
    /// Claim a file, or all that fit a glob, and print the claim's number: the token for `skep files put`
    Take {
        /// The file or glob
        path: String,
        /// How long it lasts, such as 30s or 10m [default: 1m]
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
        /// How long to wait for others who have claimed the same, such as 30s [default: not at all]
        #[arg(long, value_name = "TIME")]
        wait: Option<Span>,
        /// Let others have shared claims on the same; while there is one, nobody writes
        #[arg(long)]
        shared: bool,
    },
    /// Release a claim
    Release {
        /// Its number
        token: i64,
        /// What it is on [default: with --force whatever it is]
        #[arg(required_unless_present = "force")]
        path: Option<String>,
        /// Take it away from whoever has it. Only operators may, and it is recorded
        #[arg(long)]
        force: bool,
    },
}

/// Time for a call beside that for which it waits.
const SPARE: Duration = Duration::from_secs(10);
/// How paths are padded in a list.
const PATH_WIDTH: usize = 32;

pub(super) async fn claims(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, place, json: is_json } = arguments;
    place.needs_task()?;
    let (tool, arguments) = match &command {
        Command::Ls { path } => ("list_claims", json!({ "path": path })),
        Command::Take { path, ttl, wait, shared } => {
            let seconds = |time: &Option<Span>| time.map(|time| time.0.as_secs_f64());
            let claim = json!({ "path": path, "ttl_s": seconds(ttl), "wait_s": seconds(wait), "shared": shared });
            ("claim_file", claim)
        }
        Command::Release { token, path, force } => {
            let path = path.as_deref().unwrap_or("**");
            ("release_file", json!({ "path": path, "token": token, "force": force }))
        }
    };
    let deadline = match &command {
        Command::Take { wait: Some(wait), .. } => Some(wait.0 + SPARE),
        _ => None,
    };
    let answer: Map<String, Value> = match shared::call_within(common, &place, tool, arguments, deadline).await? {
        Ok(answer) if is_json => return show(&answer.to_json(), true, true),
        Ok(Answer { value, .. }) => value,
        Err(error) if is_json => return show(&error.to_json(), false, true),
        Err(error) => return refused(&error),
    };
    match &command {
        Command::Ls { .. } => print(&table(&answer))?,
        Command::Take { .. } => print(&format!("{}\n", answer.get("token").unwrap_or(&Value::Null)))?,
        Command::Release { .. } if answer.get("released") == Some(&Value::Bool(true)) => print("released\n")?,
        Command::Release { .. } => print("it was over already\n")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(answer: &Map<String, Value>) -> String {
    let claims = items(answer, "claims");
    if claims.is_empty() {
        return "nothing is claimed\n".to_owned();
    }
    let mut text =
        format!("{:>6}  {:PATH_WIDTH$}  {:7}  {:9}  {:20}  {}\n", "TOKEN", "PATH", "STATE", "KIND", "EXPIRES", "BY");
    for claim in claims {
        let kind = if claim["shared"] == true { "shared" } else { "exclusive" };
        let (path, state) = (text_of(&claim["path"]), text_of(&claim["state"]));
        let (until, by) = (time_of(&claim["expires_at"]), author_of(claim, "principal"));
        let token = &claim["token"];
        text += &format!("{token:>6}  {path:PATH_WIDTH$}  {state:7}  {kind:9}  {until:20}  {by}\n");
    }
    text
}

fn refused(error: &ToolError) -> anyhow::Result<ExitCode> {
    say!("skep: {error}");
    if let ToolError::Conflict { detail, .. } = error
        && let Some(at) = detail.get("expires_at")
    {
        say!("skep: that claim is over at {} unless it is renewed or released", time_of(at));
    }
    Ok(ExitCode::from(FAILED))
}
