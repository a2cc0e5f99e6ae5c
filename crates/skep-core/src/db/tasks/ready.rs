//! Tasks that may be started: which is the next one of a queue, and when there is one.

use std::{collections::BTreeSet, sync::LazyLock};

use foldhash::HashMap;

use super::{OfState, TABLE, columns_of, from_row};
use crate::{
    Timestamp,
    db::{
        Db, DbError, Doing, Tx,
        sql::{Row, Select, Value, none, values},
        table::Update,
    },
    policy::{Permit, Read},
    task::{Holder, Priority, Task},
};

/// What changes when a pending task is started. It keeps the moment since which it was due.
static START: LazyLock<Update> = LazyLock::new(|| TABLE.update_of(&["state", "attempt", "worker", "session"]));

/// A condition on a task: its run, if it is in one, goes on. A subquery and not a join, so that the tasks of a queue
/// are looked at in order, and only as many as it takes.
const RUN_GOES_ON: &str = "coalesce((select run.state from run
     where run.namespace = task.namespace and run.id = task.run), 'running') = 'running'";

/// The tasks of a queue and of one priority that may be started, those first that have been due the longest. They are a
/// range of an index: `task_ready` has those of medium priority, which is what most have, and `task_ranked` the others.
fn lane(priority: Priority, more: &str) -> String {
    let which = match priority {
        Priority::Medium => "priority = 2".to_owned(),
        other => format!("priority <> 2 and priority = {}", other.number()),
    };
    format!(
        "queue = $2 and state = 'pending' and waiting_for = 0 and {which} {more}
            and (deadline is null or deadline > $3) and {RUN_GOES_ON}
         order by due, position, id"
    )
}
const IS_DUE: &str = "and due <= $3";

/// Whether a queue has tasks of another priority than medium that wait for nothing.
const HAS_RANKED: &str = "select 1 from task
     where namespace = $1 and queue = $2 and state = 'pending' and waiting_for = 0 and priority <> 2 limit 1";

/// The first `$4` tasks of a queue that has no others than those of medium priority.
static MEDIUM: LazyLock<String> =
    LazyLock::new(|| TABLE.select(&format!("{} limit $4", lane(Priority::Medium, IS_DUE))));

/// The first `$4` tasks of any queue: as many of each priority, and of those the first by [`Priority::rank`].
static RANKED: LazyLock<String> = LazyLock::new(|| ranked(IS_DUE, "$4"));

fn ranked(more: &str, limit: &str) -> String {
    let lanes = Priority::ALL.map(|priority| {
        let rank = format!("due + {} as rank", priority.delay().as_micros());
        let first = TABLE.select_and(&rank, &format!("{} limit {limit}", lane(priority, more)));
        format!("select * from ({first}) as {}", priority.name())
    });
    format!("select * from ({}) as lanes order by rank, position, id limit {limit}", lanes.join(" union all "))
}

impl Tx<'_> {
    /// The tasks of a queue that are to be started next, at most so many; and for each of these holders, whether its
    /// session is registered, is its worker's, and belongs to a known hub.
    pub(crate) async fn ready_tasks(
        &mut self,
        queue: &str,
        count: usize,
        holders: &[&Holder],
    ) -> Result<(Vec<Task>, Vec<bool>), DbError> {
        let (namespace, now, count) = (self.namespace(), self.now().0, i64::try_from(count).unwrap_or(i64::MAX));
        let values = values![namespace, queue, now, count];
        if self.sql.answers_at_once() {
            // Few queues have tasks of several priorities, and to put those in order takes time.
            let ranked = self.first(HAS_RANKED, values![namespace, queue], |_| Ok(())).await;
            let sql = if ranked.doing("find ready tasks")?.is_some() { &RANKED } else { &MEDIUM };
            let ready = self.all(sql, values, from_row).await.doing("find ready tasks")?;
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
        let ready = Select { sql: &RANKED, values, read: from_row };
        let (ready, registered) = self.both(ready, registered).await.doing("find ready tasks")?;
        let workers: HashMap<String, String> = registered.into_iter().collect();
        let is_holders = |holder: &&Holder| workers.get(&holder.session.0) == Some(&holder.worker.0);
        Ok((ready, holders.iter().map(is_holders).collect()))
    }

    /// The task of a queue that is to be started next by a worker that can do this, and wants only tasks of these types, if
    /// there are any.
    pub(crate) async fn fitting_task(
        &mut self,
        queue: &str,
        kinds: &BTreeSet<String>,
        capabilities: &BTreeSet<String>,
    ) -> Result<Option<Task>, DbError> {
        let texts = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<String>>();
        let missing = none(&format!(
            "select 1 from task_tag t where t.namespace = task.namespace and t.id = task.id and t.kind = 'capability'
                and not (t.tag {})",
            self.sql.any(4)
        ));
        let of_kind = match kinds.is_empty() {
            true => String::new(),
            false => format!(
                "and exists (select 1 from task_detail d
                    where d.namespace = task.namespace and d.id = task.id and d.kind {})",
                self.sql.any(5)
            ),
        };
        let sql = ranked(&format!("{IS_DUE} and {missing} {of_kind}"), "1");
        let (namespace, now) = (self.namespace(), self.now().0);
        let mut values = vec![namespace.into(), queue.into(), now.into(), Value::from(texts(capabilities))];
        if !kinds.is_empty() {
            values.push(texts(kinds).into());
        }
        self.first(&sql, &values, from_row).await.doing("find a task")
    }

    /// Save tasks that were pending and are in progress now, no two of which are the same.
    pub(crate) async fn save_started(&mut self, tasks: &[&Task]) -> Result<(), DbError> {
        let rows = tasks.iter().map(|task| {
            let OfState { holder, .. } = OfState::of(&task.state);
            let (worker, session) = columns_of(holder);
            (task.id.0.as_str(), [task.state.name().into(), task.attempt.into(), worker, session])
        });
        self.update_several(&START, rows).await.doing("save the tasks that are started")
    }
}

impl Db {
    /// When the next task of a queue is due that waits for nothing else and whose run goes on: in the past if one can
    /// be claimed, `None` if there is none.
    pub async fn next_due(&self, permit: &Permit<Read>, queue: &str) -> Result<Option<Timestamp>, DbError> {
        let queue = queue.to_owned();
        let first = Priority::ALL.map(|priority| {
            let first = format!("select due from task where namespace = $1 and {} limit 1", lane(priority, ""));
            format!("select * from ({first}) as {}", priority.name())
        });
        let (sql, now) = (first.join(" union all "), self.now().at);
        let read = |row: &Row<'_>| Ok(Timestamp(row.next()?));
        let due = self.read_in(permit.namespace(), async move |db, namespace| {
            db.all(&sql, values![namespace, &queue, now.0], read).await.doing("read a task")
        });
        Ok(due.await?.into_iter().min())
    }
}
