//! `skep du`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use skep_core::{db::SharedSize, retention::Kept, run::short_names};
use skep_tools::workspace::OUTPUTS;

use super::{Common, at_least_one, bytes_for_people, print};
use crate::{
    config::Overrides,
    hub::Store,
    run::{Archive, bytes_in},
    terminal::line,
};

/// Show what the state directory takes: the database, the runs, the outputs of `skep serve`, what agents share
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show so many runs, the largest first
    #[arg(long, default_value = "20", value_name = "N", value_parser = at_least_one)]
    limit: usize,
    /// As JSON, with every run
    #[arg(long)]
    json: bool,
}

pub(super) async fn du(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let home = store.home.path();
    let (database, total) = (store.app.db.size().await?, bytes_in(home));
    let shared = store.app.db.shared_size().await?;
    let (outputs, runs) = (bytes_in(&home.join(OUTPUTS)), bytes_in(&home.join("runs")));
    let mut kept = Archive::of(&store).measured().await?;
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.bytes));
    if arguments.json {
        let run = |kept: &Kept| json!({ "run": kept.run.id.0, "name": kept.run.name, "bytes": kept.bytes });
        let all = json!({
            "directory": home,
            "bytes": total,
            "database_bytes": database,
            "run_directories_bytes": runs,
            "outputs_bytes": outputs,
            "shared": {
                "revisions": shared.revisions,
                "revision_bytes": shared.revision_bytes,
                "steps": shared.steps,
                "messages": shared.messages,
                "message_bytes": shared.message_bytes,
                "memory_bytes": shared.memory_bytes,
            },
            "runs": kept.iter().map(run).collect::<Vec<_>>(),
        });
        print(&format!("{all:#}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for (bytes, what) in [
        (total, format!("{}, all of it", home.display())),
        (database, "the database".to_owned()),
        (runs, "directories of runs".to_owned()),
        (outputs, "outputs of `skep serve`".to_owned()),
    ] {
        text += &format!("{:>9}  {what}\n", bytes_for_people(bytes));
    }
    let SharedSize { revisions, revision_bytes, steps, messages, message_bytes, memory_bytes } = shared;
    if revisions + steps + messages + memory_bytes > 0 {
        text += &format!(
            "\nWhat agents share, in the database:\n{:>9}  {revisions} revisions of files\n{:>9}  {messages} messages\n\
             {:>9}  memory\n{:>9}  {steps} steps\n",
            bytes_for_people(revision_bytes),
            bytes_for_people(message_bytes),
            bytes_for_people(memory_bytes),
            "",
        );
    }
    if !kept.is_empty() {
        text += "\nRuns, with their share of the database:\n";
    }
    let short = short_names(&kept.iter().map(|kept| &kept.run.id).collect::<Vec<_>>());
    for (kept, short) in kept.iter().zip(short).take(arguments.limit) {
        text += &format!("{:>9}  {short}  {}\n", bytes_for_people(kept.bytes), line(&kept.run.name));
    }
    if kept.len() > arguments.limit {
        text += &format!("           and {} more; --limit shows them\n", kept.len() - arguments.limit);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
