//! Tasks that may be started: which is the next one of a queue, and when there is one.

use std::sync::LazyLock;

use foldhash::HashMap;

use super::{OfState, TABLE, columns_of, from_row};
use crate::{
    Timestamp,
    db::{
        Db, DbError, Doing, Tx,
        sql::{Row, Select, Value, values},
        table::Update,
    },
    policy::{Permit, Read},
    task::{Holder, Task},
};

/// What changes when a pending task is started.
static START: LazyLock<Update> = LazyLock::new(|| TABLE.update_of(&["state", "due", "attempt", "worker", "session"]));

/// A condition on a task: its run, if it is in one, goes on. A subquery and not a join, so that the tasks of a queue
/// are looked at in order, and only as many as it takes.
const RUN_GOES_ON: &str = "coalesce((select run.state from run
     where run.namespace = task.namespace and run.id = task.run), 'running') = 'running'";

impl Tx<'_> {
    /// The tasks of a queue that have been due the longest, at most so many; and for each of these holders, whether its
    /// session is registered, is its worker's, and belongs to a known hub.
    pub(crate) async fn ready_tasks(
        &mut self,
        queue: &str,
        count: usize,
        holders: &[&Holder],
    ) -> Result<(Vec<Task>, Vec<bool>), DbError> {
        static READY: LazyLock<String> = LazyLock::new(|| {
            TABLE.select(&format!(
                "queue = $2 and state = 'pending' and waiting_for = 0 and due <= $3 and {RUN_GOES_ON}
                 order by due, position, id limit $4"
            ))
        });
        let (namespace, now, count) = (self.namespace(), self.now().0, i64::try_from(count).unwrap_or(i64::MAX));
        let ready = Select { sql: &READY, values: values![namespace, queue, now, count], read: from_row };
        if self.sql.answers_at_once() {
            let ready = self.all(ready.sql, ready.values, ready.read).await.doing("find ready tasks")?;
            let sql = "select session.worker = $1 from session join hub on hub.id = session.hub
                 where session.namespace = $2 and session.id = $3";
            let each = holders
                .iter()
                .map(|holder| [Value::from(&holder.worker.0), namespace.into(), (&holder.session.0).into()]);
            let is_holders = self.first_of_each(sql, each, |row| row.next::<bool>()).await;
            let is_holders = is_holders.doing("find the sessions of workers")?;
            return Ok((ready, is_holders.into_iter().map(|is_holders| is_holders.unwrap_or(false)).collect()));
        }
        let sql = "select session.id, session.worker from session join hub on hub.id = session.hub
             where session.namespace = $1 and session.id = any($2)";
        let sessions: Vec<&str> = holders.iter().map(|holder| holder.session.0.as_str()).collect();
        let read = |row: &Row<'_>| Ok((row.next::<String>()?, row.next::<String>()?));
        let registered = Select { sql, values: values![namespace, sessions], read };
        let (ready, registered) = self.both(ready, registered).await.doing("find ready tasks")?;
        let workers: HashMap<String, String> = registered.into_iter().collect();
        let is_holders = |holder: &&Holder| workers.get(&holder.session.0) == Some(&holder.worker.0);
        Ok((ready, holders.iter().map(is_holders).collect()))
    }

    /// Save tasks that were pending and are in progress now, no two of which are the same.
    pub(crate) async fn save_started(&mut self, tasks: &[&Task]) -> Result<(), DbError> {
        let rows = tasks.iter().map(|task| {
            let OfState { due, holder, .. } = OfState::of(&task.state);
            let (worker, session) = columns_of(holder);
            (task.id.0.as_str(), [task.state.name().into(), due.into(), task.attempt.into(), worker, session])
        });
        self.update_several(&START, rows).await.doing("save the tasks that are started")
    }
}

impl Db {
    /// When the next task of a queue is due that waits for nothing else and whose run goes on: in the past if one can
    /// be claimed, `None` if there is none.
    pub async fn next_due(&self, permit: &Permit<Read>, queue: &str) -> Result<Option<Timestamp>, DbError> {
        let queue = queue.to_owned();
        let sql = format!(
            "select due from task where namespace = $1 and queue = $2 and state = 'pending' and waiting_for = 0
                and {RUN_GOES_ON}
             order by due, position, id limit 1"
        );
        let read = |row: &Row<'_>| Ok(Timestamp(row.next()?));
        let due = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, &queue], read).await.doing("read a task")
        });
        Ok(due.await?.pop())
    }
}
