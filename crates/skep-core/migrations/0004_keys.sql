-- The number of the namespace instead of its name, first in every key. The tables are written anew, which is the one
-- way to do so that both databases have.

insert into namespace (team, workspace)
    select namespace, '' from (
        select namespace from run union select namespace from task union select namespace from artefact
        union select namespace from log union select namespace from event union select namespace from mcp_task
    ) as used order by namespace;
update namespace set last_event = coalesce((select number from log where log.namespace = namespace.team), 0);
drop table log;

create table new_run (
    namespace bigint not null,
    id        text not null,
    name      text not null,
    plan      text not null,   -- JSON
    directory text not null,
    state     text not null,
    created   bigint not null,
    ended     bigint,
    report    text,            -- JSON
    primary key (namespace, id)
);
insert into new_run (namespace, id, name, plan, directory, state, created, ended, report)
    select namespace.id, old.id, old.name, old.plan, old.directory, old.state, old.created, old.ended, old.report
    from run as old join namespace on namespace.team = old.namespace;
drop table run;
alter table new_run rename to run;
create index run_newest on run (namespace, created, id);

create table new_task (
    namespace      bigint not null,
    id             text not null,
    run            text,
    queue          text not null,
    position       bigint not null,
    depends_on     text not null,   -- JSON; never changes, so `dependency` says the same
    retries_max    bigint not null,
    retry_delay_us bigint not null,
    allow_failure  boolean not null,
    state          text not null,
    due            bigint,          -- pending: may start at; in_progress: lease ends at
    waiting_for    bigint not null, -- pending: dependencies that are unfinished
    attempt        bigint not null,
    failures       bigint not null,
    worker         text,            -- in_progress: who
    input          text not null,   -- JSON
    result         text,            -- JSON; completed: output; failed: error; blocked: the task it would have needed
    primary key (namespace, id)
);
insert into new_task (namespace, id, run, queue, position, depends_on, retries_max, retry_delay_us, allow_failure, state, due, waiting_for, attempt, failures, worker, input, result)
    select namespace.id, old.id, old.run, old.queue, old.position, old.depends_on, old.retries_max, old.retry_delay_us, old.allow_failure, old.state, old.due, old.waiting_for, old.attempt, old.failures, old.worker, old.input, old.result
    from task as old join namespace on namespace.team = old.namespace;
drop table task;
alter table new_task rename to task;
create index task_ready on task (namespace, queue, due, position, id) where state = 'pending' and waiting_for = 0;
create index task_leased on task (namespace, due) where state = 'in_progress';
create index task_run on task (namespace, run, position) where run is not null;

create table new_dependency (
    namespace  bigint not null,
    depends_on text not null,
    task       text not null,
    primary key (namespace, depends_on, task)
);
insert into new_dependency (namespace, depends_on, task)
    select namespace.id, old.depends_on, old.task
    from dependency as old join namespace on namespace.team = old.namespace;
drop table dependency;
alter table new_dependency rename to dependency;

create table new_artefact (
    namespace bigint not null,
    task      text not null,
    path      text not null,
    run       text,
    sha256    text not null,
    size      bigint not null,
    bytes     bytea not null,       -- last, so that lists need not read past it; SQLite keeps blobs as they are
    primary key (namespace, task, path)
);
insert into new_artefact (namespace, task, path, run, sha256, size, bytes)
    select namespace.id, old.task, old.path, old.run, old.sha256, old.size, old.bytes
    from artefact as old join namespace on namespace.team = old.namespace;
drop table artefact;
alter table new_artefact rename to artefact;
create index artefact_run on artefact (namespace, run, task, path) where run is not null;

create table new_event (
    namespace bigint not null,
    number    bigint not null,
    at        bigint not null,
    kind      text not null,
    run       text,
    task      text,
    data      text not null,        -- JSON
    primary key (namespace, number)
);
insert into new_event (namespace, number, at, kind, run, task, data)
    select namespace.id, old.number, old.at, old.kind, old.run, old.task, old.data
    from event as old join namespace on namespace.team = old.namespace;
drop table event;
alter table new_event rename to event;
create index event_run on event (namespace, run, number) where run is not null;

create table new_mcp_task (
    -- A hub of an older version that still runs would go on adding names, which SQLite takes although they are no
    -- numbers. To SQLite, any text is greater than any number. (All else that such a hub writes needs the table `log`.)
    namespace  bigint not null check (namespace < 9223372036854775807),
    id         text not null,
    principal  text not null,
    request    text not null,    -- JSON; the parameters of the call
    may_repeat boolean not null,
    attempt    bigint not null,
    state      text not null,
    content    text,             -- JSON; input_required: requests; completed: result; failed: error
    bytes      bigint not null,  -- of request and content
    holder     text not null,    -- the hub that runs it or ran it last
    held_until bigint,           -- null when it is over
    created    bigint not null,
    updated    bigint not null,
    expires    bigint not null,
    primary key (namespace, id)
);
insert into new_mcp_task (namespace, id, principal, request, may_repeat, attempt, state, content, bytes, holder, held_until, created, updated, expires)
    select namespace.id, old.id, old.principal, old.request, old.may_repeat, old.attempt, old.state, old.content, old.bytes, old.holder, old.held_until, old.created, old.updated, old.expires
    from mcp_task as old join namespace on namespace.team = old.namespace;
drop table mcp_task;
alter table new_mcp_task rename to mcp_task;
create index mcp_task_principal on mcp_task (namespace, principal);
create index mcp_task_held on mcp_task (namespace, held_until) where held_until is not null;
create index mcp_task_expires on mcp_task (namespace, expires);
