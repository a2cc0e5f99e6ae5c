//! `skep prune`.

use std::process::ExitCode;

use clap::Args;

use super::{Common, print};
use crate::{config::Overrides, hub::Store, run::Archive};

/// Delete what the settings keep no longer: runs that are over (run.keep), and what agents share (shared.keep)
///
/// A hub does the same by itself. `skep du` shows how much there is, and `skep runs prune` deletes runs by other rules.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) async fn prune(common: Common, Arguments {}: Arguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(common.settings(Overrides::default())?).await?;
    let runs = Archive::of(&store).keep_within(&store.settings.keep).await?;
    let before = store.app.db.shared_size().await?;
    store.app.prune_shared(&store.permit, store.settings.keep_shared).await?;
    let after = store.app.db.shared_size().await?;
    let gone = |before: u64, after: u64| before.saturating_sub(after);
    let (revisions, steps) = (gone(before.revisions, after.revisions), gone(before.steps, after.steps));
    let messages = gone(before.messages, after.messages);
    print(&format!("deleted {runs} runs, {revisions} revisions of files, {steps} steps and {messages} messages\n"))?;
    Ok(ExitCode::SUCCESS)
}
