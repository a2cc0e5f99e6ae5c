//! `skep sandbox`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use skep_sandbox::{Attempt, Namespaces, Sandbox, Verdict};

use super::{Common, FAILED, print};
use crate::config::Overrides;

/// What keeps commands in
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attack the sandbox in every known way, on this machine; the exit code is 0 only if no attack succeeded
    Selftest {
        /// Without namespaces, as with `accept = "landlock"` on a machine that refuses them
        #[arg(long)]
        without_namespaces: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn sandbox(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    common.settings(Overrides::default())?;
    let Command::Selftest { json, without_namespaces } = arguments.command;
    let namespaces = if without_namespaces { Namespaces::Unused } else { Namespaces::Required };
    let sandbox = Sandbox::start(skep_sandbox::Config { namespaces, ..Default::default() }).await?;
    let attempts = sandbox.selftest().await;
    let count = |wanted: fn(&Verdict) -> bool| attempts.iter().filter(|attempt| wanted(&attempt.verdict)).count();
    let broken = count(|verdict| matches!(verdict, Verdict::Broken(_)));
    let untried = count(|verdict| matches!(verdict, Verdict::Untried(_)));
    let not_promised = count(|verdict| matches!(verdict, Verdict::NotPromised(_)));
    let defended = attempts.len() - broken - untried - not_promised;
    let text = match json {
        true => {
            let all: Vec<_> = attempts.iter().map(to_json).collect();
            let counts = json!({ "defended": defended, "broken": broken, "untried": untried,
                                "not_promised": not_promised });
            format!("{:#}\n", json!({ "safe": broken == 0, "counts": counts, "attempts": all }))
        }
        false => {
            let lines: String = attempts.iter().map(to_text).collect();
            let here =
                if not_promised > 0 { format!(", {not_promised} not promised at this tier") } else { String::new() };
            format!("{lines}{defended} defended, {broken} broken, {untried} not tried{here}\n")
        }
    };
    print(&text)?;
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn to_json(attempt: &Attempt) -> serde_json::Value {
    let (verdict, detail) = match &attempt.verdict {
        Verdict::Defended => ("defended", None),
        Verdict::Broken(reached) => ("broken", Some(reached)),
        Verdict::Untried(why) => ("untried", Some(why)),
        Verdict::NotPromised(reached) => ("not_promised", Some(reached)),
    };
    json!({ "attack": attempt.attack, "verdict": verdict, "detail": detail })
}

fn to_text(attempt: &Attempt) -> String {
    match &attempt.verdict {
        Verdict::Defended => format!("ok   {}\n", attempt.attack),
        Verdict::Broken(reached) => format!("NO   {}: {reached}\n", attempt.attack),
        Verdict::Untried(why) => format!("-    {}: {why}\n", attempt.attack),
        Verdict::NotPromised(reached) => format!("!    {}: not promised at this tier: {reached}\n", attempt.attack),
    }
}
