//! Hubs and sessions as rows.

use std::time::Duration;

use super::{Db, DbError, Doing, Tx, events::page, sql::values};
use crate::{
    policy::{Permit, Read},
    session::{HubId, NewSession, SessionId, SessionToken},
    task::Task,
};

/// A session whose hub is not there any more.
const IS_LOST: &str = "not exists (select 1 from hub where hub.id = session.hub)";

impl Tx<'_> {
    /// Add a hub that is alive until a moment, or prolong its time.
    pub(crate) async fn add_hub(&mut self, hub: &HubId, until: crate::Timestamp) -> Result<(), DbError> {
        let sql = "insert into hub (id, until) values ($1, $2)
             on conflict (id) do update set until = excluded.until";
        self.execute(sql, values![&hub.0, until.0]).await.doing("register a hub")
    }

    /// Prolong a hub's time. `false` if there is no such hub.
    pub(crate) async fn prolong_hub(&mut self, hub: &HubId, until: crate::Timestamp) -> Result<bool, DbError> {
        let sql = "update hub set until = $1 where id = $2";
        self.has_changed(sql, values![until.0, &hub.0]).await.doing("keep a hub alive")
    }

    /// Whether there is such a hub.
    pub(crate) async fn has_hub(&mut self, hub: &HubId) -> Result<bool, DbError> {
        let found = self.first("select 1 from hub where id = $1", values![&hub.0], |_| Ok(())).await;
        Ok(found.doing("look for a hub")?.is_some())
    }

    /// Delete a hub.
    pub(crate) async fn delete_hub(&mut self, hub: &HubId) -> Result<(), DbError> {
        self.execute("delete from hub where id = $1", values![&hub.0]).await.doing("delete a hub")
    }

    /// Delete the hubs whose time was over `grace` ago for certain. Returns their number.
    pub(crate) async fn delete_silent_hubs(&mut self, grace: Duration) -> Result<u64, DbError> {
        let passed = self.surely_past().before(grace);
        let gone = self.change("delete from hub where until <= $1 returning id", values![passed.0], |_| Ok(())).await;
        Ok(gone.doing("delete the hubs that are gone")?.len() as u64)
    }

    /// Add a session, unless there is one of this name.
    pub(crate) async fn add_session(&mut self, session: &NewSession, hub: &HubId) -> Result<(), DbError> {
        let sql = "insert into session (namespace, id, hub, worker, token) values ($1, $2, $3, $4, $5)
             on conflict (namespace, id) do nothing";
        let token = session.token.as_ref().map(SessionToken::sha256);
        let values = values![self.namespace(), &session.id.0, &hub.0, &session.worker.0, token];
        self.execute(sql, values).await.doing("register a session")
    }

    /// Move a session to another hub. `false` if there is none of this name and token.
    pub(crate) async fn move_session(
        &mut self,
        session: &SessionId,
        token: &SessionToken,
        hub: &HubId,
    ) -> Result<bool, DbError> {
        let sql = "update session set hub = $1 where namespace = $2 and id = $3 and token = $4";
        let values = values![&hub.0, self.namespace(), &session.0, token.sha256()];
        self.has_changed(sql, values).await.doing("attach a session")
    }

    /// Delete a session, which holds nothing any more.
    pub(crate) async fn delete_session(&mut self, session: &SessionId) -> Result<(), DbError> {
        let sql = "delete from session where namespace = $1 and id = $2";
        self.execute(sql, values![self.namespace(), &session.0]).await.doing("end a session")
    }

    /// The tasks that a session holds.
    pub(crate) async fn tasks_of_session(&mut self, session: &SessionId) -> Result<Vec<Task>, DbError> {
        let which = "state = 'in_progress' and session = $2";
        self.tasks_where(which, values![self.namespace(), &session.0]).await
    }

    /// The tasks that the sessions of a hub hold.
    pub(crate) async fn tasks_of_hub(&mut self, hub: &HubId) -> Result<Vec<Task>, DbError> {
        let which = "state = 'in_progress'
             and session in (select id from session where namespace = task.namespace and hub = $2)
             order by position, id";
        self.tasks_where(which, values![self.namespace(), &hub.0]).await
    }

    /// The tasks in progress whose session is lost, at most `limit`.
    pub(crate) async fn lost_tasks(&mut self, limit: usize) -> Result<Vec<Task>, DbError> {
        let which = "state = 'in_progress' and not exists (
                select 1 from session join hub on hub.id = session.hub
                where session.namespace = task.namespace and session.id = task.session)
             order by id limit $2";
        self.tasks_where(which, values![self.namespace(), page(limit)]).await
    }

    /// Delete the sessions that are lost.
    pub(crate) async fn delete_lost_sessions(&mut self) -> Result<(), DbError> {
        let sql = format!("delete from session where namespace = $1 and {IS_LOST}");
        self.execute(&sql, values![self.namespace()]).await.doing("delete lost sessions")
    }

    /// Delete the sessions of a hub.
    pub(crate) async fn delete_sessions_of(&mut self, hub: &HubId) -> Result<(), DbError> {
        let sql = "delete from session where namespace = $1 and hub = $2";
        self.execute(sql, values![self.namespace(), &hub.0]).await.doing("delete the sessions of a hub")
    }
}

impl Db {
    /// Whether there is something for [`crate::app::App::release_lost`] to do.
    pub async fn has_lost(&self, permit: &Permit<Read>) -> Result<bool, DbError> {
        let sql = format!(
            "select 1 from session where namespace = $1 and {IS_LOST} union all
             select 1 from task where namespace = $2 and state = 'in_progress' and not exists (
                select 1 from session where session.namespace = task.namespace and session.id = task.session)
             limit 1"
        );
        self.read_in(permit.namespace(), async move |db, namespace| {
            let found = db.all(&sql, values![namespace, namespace], |_| Ok(())).await;
            Ok(!found.doing("look for lost sessions")?.is_empty())
        })
        .await
    }

    /// Whether there are hubs for [`crate::app::App::expire_hubs`] to forget.
    pub async fn has_silent_hubs(&self, grace: Duration) -> Result<bool, DbError> {
        let passed = self.now().surely().before(grace);
        self.read(async move |db| {
            let found = db.all("select 1 from hub where until <= $1 limit 1", values![passed.0], |_| Ok(())).await;
            Ok(!found.doing("look for silent hubs")?.is_empty())
        })
        .await
    }
}
