//! Recording alerts of hubs.

use super::App;
use crate::{
    alert::Alert,
    db::{DbError, Tx},
    event::{EventKind, NewEvent},
    policy::Permit,
};

impl App {
    /// Record in the log of the permit's team that a hub has raised this alert.
    pub async fn raise_alert(&self, permit: &Permit, alert: Alert) -> Result<(), DbError> {
        self.record_alert(permit, EventKind::AlertRaised(alert)).await
    }

    /// Record that this alert is over.
    pub async fn clear_alert(&self, permit: &Permit, alert: Alert) -> Result<(), DbError> {
        self.record_alert(permit, EventKind::AlertCleared(alert)).await
    }

    async fn record_alert(&self, permit: &Permit, kind: EventKind) -> Result<(), DbError> {
        let record = async move |tx: &mut Tx<'_>| {
            tx.append(NewEvent { at: tx.now(), run: None, task: None, kind: kind.clone() });
            Ok(())
        };
        self.db.write_as_hub(permit.namespace(), record).await
    }
}
