//! Statements that find nothing in a sound database.
//!
//! Each states a rule that holds after every commit, so it may run beside hubs at work: a statement sees one moment.
//! Tasks are checked run by run, so that no statement grows with the database; the rest is anti-joins over an index.

use std::{collections::BTreeMap, fmt};

use super::{
    Db, DbError, Doing, blobs, claims, directories, files,
    sql::{Row, values},
};

/// Findings that [`Db::audit`] lists at most; where so much is wrong, more of them are of no use.
pub const FINDINGS_MAX: usize = 100;
/// Runs that one statement lists.
const RUNS_PAGE: usize = 100;

/// What an audit has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// How many runs there are, in all namespaces.
    pub runs: u64,
    /// How many numbers of the logs, from the first that is kept, have no event. Runs that were deleted took theirs
    /// along, and so do old events that belong to no run and no task.
    pub events_missing: u64,
    /// What is not as it must be: nothing, in a sound database; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

/// Something in the database that no sequence of operations leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the namespace.
    pub namespace: String,
    /// Which row: `task a`.
    pub subject: String,
    /// What is wrong with it, as the rest of a sentence.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (in {}) {}", self.subject, self.namespace, self.what)
    }
}

/// The runs after one, with what is wrong with each.
const RUNS: &str = "
    select r.namespace, r.id, case
        when r.state not in ('running', 'interrupted', 'completed', 'failed', 'cancelled')
            then 'has the unknown state ' || r.state
        when r.state in ('completed', 'failed', 'cancelled') and r.ended is null then 'is over, but has no end'
        when r.state in ('running', 'interrupted') and r.ended is not null then 'is not over, but has an end'
        when e.kind is null then 'has no events'
        when not case e.kind
            when 'run.interrupted' then r.state = 'interrupted'
            when 'run.ended' then e.data like '%\"' || r.state || '\"%'
            else r.state = 'running'
        end then 'is ' || r.state || ', but its last event is ' || e.kind
    end
    from run r left join event e on e.namespace = r.namespace and e.number = (
        select number from event
        where run = r.id and namespace = r.namespace and kind like 'run.%' order by number desc limit 1)
    where (r.namespace, r.id) > ($1, $2) order by r.namespace, r.id limit $3";

/// The tasks of a run, or those outside of any, that are not as their events, their dependencies and their run say.
/// `{run}` selects them and `{needs}` is how many others a task names.
///
/// What is known of a task from three tables is brought together by grouping and not by joins, which PostgreSQL gets
/// wrong as long as it has no statistics. `told` is the number of the last event that changed the task, and behind it,
/// as its last digit, to which state.
const TASKS: &str = "
    select 'task ' || id, what from (select id, case
        when told is null then 'has no events'
        when state <> told then 'is ' || state || ', but its last event says ' || told
        when starts <> attempt then 'is at attempt ' || attempt || ', but was started ' || starts || ' times'
        when state = 'in_progress' and is_held = 0 then 'is in progress, but nobody holds it'
        when state <> 'in_progress' and is_held = 1 then 'is ' || state || ', but a worker holds it'
        when state = 'pending' and due is null then 'is pending, but never due'
        when state in ('completed', 'failed', 'blocked') and has_result = 0 then 'is ' || state || ', but has no result'
        when needs <> known then 'needs ' || needs || ' others, but ' || known || ' know of it'
        when state in ('pending', 'in_progress') and failed > 0
            then 'is ' || state || ', but something that it needs has ended without success'
        when state = 'blocked' and failed = 0 then 'is blocked, but nothing that it needs has ended without success'
        when state = 'pending' and waiting_for <> unfinished
            then 'waits for ' || waiting_for || ' others, but ' || unfinished || ' are unfinished'
        when state = 'in_progress' and unfinished > 0 then 'is in progress, but something that it needs is unfinished'
        when state in ('pending', 'in_progress') and run_state in ('completed', 'failed', 'cancelled')
            then 'is ' || state || ', but its run is ' || run_state
        when state = 'in_progress' and run_state = 'interrupted' then 'is in progress, but its run is interrupted'
    end as what
    from (select id, max(state) as state, max(attempt) as attempt, max(is_held) as is_held, max(due) as due,
        max(has_result) as has_result, max(needs) as needs, max(waiting_for) as waiting_for,
        max(run_state) as run_state, coalesce(max(starts), 0) as starts, coalesce(max(known), 0) as known,
        coalesce(max(failed), 0) as failed, coalesce(max(unfinished), 0) as unfinished, case max(told) % 10
            when 0 then 'pending' when 1 then 'in_progress' when 2 then 'completed' when 3 then 'failed'
            when 4 then 'blocked' when 5 then 'cancelled'
        end as told
    from (
        select id, state, attempt, case when worker is null then 0 else 1 end as is_held, due,
            case when result is null then 0 else 1 end as has_result, {needs} as needs, waiting_for,
            (select r.state from run r where r.id = task.run and r.namespace = task.namespace) as run_state,
            cast(null as bigint) as told, cast(null as bigint) as starts,
            cast(null as bigint) as known, cast(null as bigint) as unfinished, cast(null as bigint) as failed
        from task where namespace = $1 and {run}
        union all
        select task, null, null, null, null, null, null, null, null,
            max(number * 10 + case kind
                when 'task.started' then 1 when 'task.completed' then 2 when 'task.failed' then 3 when 'task.expired' then 3
                when 'task.blocked' then 4 when 'task.cancelled' then 5 else 0
            end),
            count(*) filter (where kind = 'task.started'), null, null, null
        from event
        where namespace = $1 and {run} and task is not null and kind not in ('task.log', 'task.progress', 'task.answer_refused')
        group by task
        union all
        select d.task, null, null, null, null, null, null, null, null, null, null, count(*),
            count(*) filter (where n.state in ('pending', 'in_progress')),
            count(*) filter (where n.state in ('failed', 'blocked', 'cancelled') and not n.allow_failure)
        from task n join dependency d on d.depends_on = n.id and d.namespace = n.namespace
        where n.namespace = $1 and n.{run}
        group by d.task
    ) as parts group by id) as tasks where state is not null) as checked
    where what is not null order by id";

/// Everything else: namespace, subject, and what is wrong with it.
const OTHERS: [&str; 20] = [
    "select namespace, 'details of task ' || id, 'are kept, but the task does not exist' from (
        select namespace, id from task_detail union select namespace, id from task_tag
            union select namespace, id from task_word) as kept
     where not exists (select 1 from task t where t.id = kept.id and t.namespace = kept.namespace)",
    "select namespace, 'task ' || id, 'belongs to run ' || run || ', which does not exist' from task
     where run is not null
        and not exists (select 1 from run where run.id = task.run and run.namespace = task.namespace)
        and not exists (select 1 from deletion where run = task.run and namespace = task.namespace)",
    "select d.namespace, 'task ' || d.task, 'needs task ' || d.depends_on || ', and one of them does not exist'
     from dependency d
     where not exists (select 1 from task t where t.id = d.task and t.namespace = d.namespace)
        or not exists (select 1 from task t where t.id = d.depends_on and t.namespace = d.namespace)",
    "select a.namespace, 'artefact ' || a.path || ' of task ' || a.task, case
            when t.id is null then 'is kept, but the task does not exist'
            when t.state <> 'completed' then 'is kept, but the task is ' || t.state
            when a.run is null and t.run is not null or a.run <> t.run then 'is kept for another run than the task'
            else 'has ' || length(a.bytes) || ' bytes, but should have ' || a.size
        end
     from artefact a left join task t on t.id = a.task and t.namespace = a.namespace
     where t.id is null or t.state <> 'completed' or a.run is null and t.run is not null or a.run <> t.run
        or length(a.bytes) <> a.size",
    "select e.namespace, 'event ' || e.number, 'is about task ' || e.task || ', which does not exist' from event e
     where e.task is not null and not exists (select 1 from task t where t.id = e.task and t.namespace = e.namespace)",
    "select e.namespace, 'event ' || e.number, 'is about run ' || e.run || ', which does not exist' from event e
     where e.run is not null and not exists (select 1 from run r where r.id = e.run and r.namespace = e.namespace)
        and not exists (select 1 from deletion d where d.run = e.run and d.namespace = e.namespace)",
    "select e.namespace, 'event ' || max(e.number), 'has a number that is still to be given' from event e
     group by e.namespace
     having max(e.number) > coalesce((select last_event from namespace n where n.id = e.namespace), 0)",
    "select n.id, 'event ' || e.number, 'comes before the first that is kept, ' || n.first_event
     from namespace n join event e on e.namespace = n.id and e.number < n.first_event",
    "select d.namespace, 'run ' || d.run, 'is being deleted, but is still there' from deletion d
     where exists (select 1 from run r where r.id = d.run and r.namespace = d.namespace)",
    "select t.namespace, 'task ' || t.id, 'is ' || t.state || ', but its run ' || d.run || ' is being deleted'
     from deletion d join task t on t.namespace = d.namespace and t.run = d.run
     where t.state in ('pending', 'in_progress')",
    "select t.namespace, 'task ' || t.id, 'is of epoch ' || t.epoch || ', but only ' || n.epoch || ' runs were deleted'
     from namespace n join task t on t.namespace = n.id where t.epoch > n.epoch",
    // A task that is in progress in no session is one of an older program, and is given out again.
    "select t.namespace, 'task ' || t.id, case
            when t.state <> 'in_progress' then 'is ' || t.state || ', but belongs to session ' || t.session
            when s.id is null then 'is in progress in session ' || t.session || ', which does not exist'
            else 'is in progress by ' || t.worker || ' in session ' || t.session || ' of ' || s.worker
        end
     from task t left join session s on s.namespace = t.namespace and s.id = t.session
     where t.session is not null and (t.state <> 'in_progress' or s.id is null or s.worker <> t.worker)",
    "select namespace, 'MCP task ' || id,
        case when held_until is null then 'runs, but nobody holds it' else 'is over, but a hub holds it' end
     from mcp_task where (held_until is null) <> (state in ('completed', 'failed', 'cancelled'))",
    // By grouping, for the same reason as of tasks.
    "select namespace, case when max(id) is null then 'word ' || max(word) else 'memory ' || max(id) end, case
            when max(id) is null then 'belongs to no memory entry'
            else 'has ' || sum(found) || ' words, but should have ' || max(words)
        end
     from (
        select namespace, place, id, words, cast(null as text) as word, 0 as found from memory
        union all select namespace, place, null, null, word, 1 from memory_word
     ) as parts group by namespace, place having max(id) is null or sum(found) <> max(words)",
    "select namespace, 'memory',
        'has ' || sum(entries) || ' entries of ' || sum(bytes) || ' bytes, but ' || sum(memories) || ' of '
            || sum(memory_bytes) || ' are counted'
     from (
        select namespace, 1 as entries, bytes, 0 as memories, 0 as memory_bytes from memory
        union all select id, 0, 0, memories, memory_bytes from namespace
     ) as parts group by namespace having sum(entries) <> sum(memories) or sum(bytes) <> sum(memory_bytes)",
    "select n.id, 'log of steps', 'should have ' || (n.last_step - n.first_step + 1) || ' from ' || n.first_step
            || ' on, but has ' || coalesce(s.count, 0) || ' from ' || coalesce(s.first, 0) || ' to ' || coalesce(s.last, 0)
     from namespace n left join (
        select namespace, count(*) as count, min(number) as first, max(number) as last from step group by namespace
     ) as s on s.namespace = n.id
     where coalesce(s.count, 0) <> n.last_step - n.first_step + 1 or s.first <> n.first_step or s.last <> n.last_step",
    "select n.id, 'list of messages', 'should have ' || (n.last_message - n.first_message + 1) || ' from '
            || n.first_message || ' on, but has ' || coalesce(m.count, 0) || ' from ' || coalesce(m.first, 0) || ' to '
            || coalesce(m.last, 0)
     from namespace n left join (
        select namespace, count(*) as count, min(number) as first, max(number) as last from message group by namespace
     ) as m on m.namespace = n.id
     where coalesce(m.count, 0) <> n.last_message - n.first_message + 1 or m.first <> n.first_message
        or m.last <> n.last_message",
    "select i.namespace, 'message ' || i.number, case
            when m.number is null then 'is in the inbox of ' || i.agent || ', but does not exist'
            when m.recipient is not null then 'is in the inbox of ' || i.agent || ', but is to ' || m.recipient
            else 'is to all, and in the inbox of ' || i.agent || ', who has not come so far'
        end
     from inbox i left join message m on m.namespace = i.namespace and m.number = i.number
     where m.number is null or m.recipient <> i.agent or m.recipient is null and i.number > coalesce(
        (select seen from member where member.namespace = i.namespace and member.id = i.agent), 0)",
    "select m.namespace, 'member ' || m.id, 'has seen message ' || m.seen || ', but the last one is ' || n.last_message
     from member m join namespace n on n.id = m.namespace where m.seen > n.last_message",
    "select m.namespace, 'message ' || m.number, 'is about message ' || m.reply_to || ', which was not there before it'
     from message m where m.reply_to >= m.number or m.reply_to < 1",
];

/// The same about large values: each that a row names is there, and each that is there is named. By grouping, for the
/// same reason as above.
fn about_blobs() -> String {
    let names = blobs::names();
    format!(
        "select namespace, case when size is null then subject else 'blob ' || substr(sha256, 1, 8) end, case
                when size is null then 'has a value whose blob ' || substr(sha256, 1, 8) || ' is gone'
                when subject is null then 'is kept, but no row names it'
                else 'has ' || bytes || ' bytes, but should have ' || size
            end
         from (select namespace, sha256, max(subject) as subject, max(size) as size, max(bytes) as bytes from (
                select namespace, sha256, subject, cast(null as bigint) as size, cast(null as bigint) as bytes
                from {names} as names
                union all
                select namespace, sha256, null, size, length(bytes) from blob
            ) as parts group by namespace, sha256) as known
         where subject is null or size is null or bytes <> size"
    )
}

const NAMESPACES: &str = "select id, case when workspace = '' then team else team || '/' || workspace end
     from namespace order by id";

const EVENTS_MISSING: &str =
    "select cast(coalesce((select sum(last_event - first_event + 1) from namespace), 0) as bigint)
     - (select count(*) from event)";

impl Db {
    /// Check every rule that ties rows to each other and to their events, in all namespaces.
    ///
    /// It reads the whole database, in many statements, and holds up no writer.
    pub async fn audit(&self) -> Result<Audit, DbError> {
        let mut audit = Audit { events_missing: self.events_missing().await?, ..Audit::default() };
        let names: BTreeMap<i64, String> = self.namespaces().await?.into_iter().collect();
        let name = |namespace| names.get(&namespace).cloned().unwrap_or_else(|| format!("namespace {namespace}"));
        let rules = OTHERS.iter().chain(&files::RULES).chain(&claims::RULES).chain(&directories::RULES).copied();
        for sql in rules.map(str::to_owned).chain([about_blobs()]) {
            let room = FINDINGS_MAX.saturating_sub(audit.findings.len());
            let found = self.audit_others(sql, room).await?.into_iter();
            let finding = |(namespace, subject, what)| Finding { namespace: name(namespace), subject, what };
            audit.findings.extend(found.map(finding));
        }
        for (namespace, name) in &names {
            self.audit_tasks(&mut audit, (*namespace, name), None).await?;
            for (claim, other) in self.claims_that_overlap(*namespace).await? {
                let (subject, what) = (format!("claim {}", claim.0), format!("is held beside claim {}", other.0));
                audit.findings.push(Finding { namespace: name.clone(), subject, what });
            }
        }
        let mut last = (i64::MIN, String::new());
        loop {
            let page = self.audit_runs(last).await?;
            let Some((namespace, id, _)) = page.last() else { break };
            last = (*namespace, id.clone());
            for (namespace, id, what) in page {
                audit.runs += 1;
                let name = name(namespace);
                let finding = |what| Finding { namespace: name.clone(), subject: format!("run {id}"), what };
                audit.findings.extend(what.map(finding));
                self.audit_tasks(&mut audit, (namespace, &name), Some(id)).await?;
            }
        }
        audit.findings.truncate(FINDINGS_MAX);
        Ok(audit)
    }

    /// The tasks of a run, or those of a namespace that are in none.
    async fn audit_tasks(
        &self,
        audit: &mut Audit,
        (namespace, name): (i64, &str),
        run: Option<String>,
    ) -> Result<(), DbError> {
        if audit.findings.len() >= FINDINGS_MAX {
            return Ok(());
        }
        let name = name.to_owned();
        let found = self.read(async move |db| {
            let needs = db.json_array_length("depends_on");
            let which = if run.is_some() { "run = $2" } else { "run is null" };
            let sql = TASKS.replace("{run}", which).replace("{needs}", &needs);
            let sql = format!("{sql} limit {FINDINGS_MAX}");
            let read = |row: &Row<'_>| Ok(Finding { namespace: name.clone(), subject: row.next()?, what: row.next()? });
            let found = match &run {
                Some(run) => db.all(&sql, values![namespace, run], read).await,
                None => db.all(&sql, values![namespace], read).await,
            };
            found.doing("check the tasks")
        });
        audit.findings.extend(found.await?);
        Ok(())
    }

    /// A page of runs: namespace, id, and what is wrong.
    async fn audit_runs(&self, (namespace, id): (i64, String)) -> Result<Vec<(i64, String, Option<String>)>, DbError> {
        self.read(async move |db| {
            let read = |row: &Row<'_>| Ok((row.next()?, row.next()?, row.next()?));
            let page = super::events::page(RUNS_PAGE);
            db.all(RUNS, values![namespace, &id, page], read).await.doing("check the runs")
        })
        .await
    }

    async fn audit_others(&self, sql: String, limit: usize) -> Result<Vec<(i64, String, String)>, DbError> {
        self.read(async move |db| {
            let read = |row: &Row<'_>| Ok((row.next()?, row.next()?, row.next()?));
            db.all(&format!("{sql} limit {limit}"), &[], read).await.doing("check the database")
        })
        .await
    }

    async fn namespaces(&self) -> Result<Vec<(i64, String)>, DbError> {
        let read = |row: &Row<'_>| Ok((row.next()?, row.next()?));
        self.read(async move |db| db.all(NAMESPACES, &[], read).await.doing("list the namespaces")).await
    }

    async fn events_missing(&self) -> Result<u64, DbError> {
        let read = |row: &Row<'_>| Ok(row.next::<i64>()?.try_into().unwrap_or(0));
        let missing = self.read(async move |db| db.all(EVENTS_MISSING, &[], read).await.doing("count the events"));
        Ok(missing.await?.pop().unwrap_or(0))
    }
}
