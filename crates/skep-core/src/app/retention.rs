//! Deleting what agents share and nobody needs any more.

use super::{App, FileError};
use crate::{db::Tx, file::KeepRevisions, policy::Permit, retention::KeepShared};

impl App {
    /// Delete what the actor's team shares and is not to be kept, inside of workspaces and outside, in small steps with other
    /// writes in between. Numbers of what is deleted are not given again. Messages are deleted by their age whether or not they
    /// were acknowledged.
    pub async fn prune_shared(&self, permit: &Permit, keep: KeepShared) -> Result<(), FileError> {
        let KeepShared { revisions_max, age_max } = keep;
        let revisions = KeepRevisions { age_max, count_max: revisions_max };
        // It must be that old for certain, whatever clock wrote it.
        let before = age_max.map(|age| self.db.now().surely().before(age));
        let mut after = 0;
        loop {
            let page = self.db.namespaces_of(&permit.actor().team, after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (_, namespace) in &page {
                let workspace = Some(&*namespace.workspace).filter(|workspace| !workspace.is_empty());
                let Ok(permit) = permit.within(workspace, None) else { continue }; // the rules for names have changed
                if revisions != KeepRevisions::default() {
                    self.prune_revisions(&permit, revisions).await?;
                }
                let Some(before) = before else { continue };
                let steps = async move |tx: &mut Tx<'_>| Ok::<_, FileError>(tx.delete_old_steps(before).await?);
                while self.db.write_as_hub(namespace, steps).await? {}
                let messages = async move |tx: &mut Tx<'_>| Ok::<_, FileError>(tx.delete_old_messages(before).await?);
                while self.db.write_as_hub(namespace, messages).await? {}
                let members = async move |tx: &mut Tx<'_>| Ok::<_, FileError>(tx.delete_old_members(before).await?);
                self.db.write_as_hub(namespace, members).await?;
            }
        }
    }
}
