-- Times are microseconds since the Unix epoch, JSON is text, lists of names are JSON.
-- Keys and indexes begin with what tells rows apart best: PostgreSQL, as long as it has no statistics, takes whatever
-- comes first for that, and one namespace may hold every row there is.

create table run (
    namespace text not null,
    id        text not null,
    name      text not null,
    plan      text not null,   -- JSON
    directory text not null,
    state     text not null,
    created   bigint not null,
    ended     bigint,
    report    text,            -- JSON
    primary key (id, namespace)
);
create index run_newest on run (namespace, created, id);

create table task (
    namespace      text not null,
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
    primary key (id, namespace)
);
create index task_ready on task (queue, namespace, due, position, id) where state = 'pending' and waiting_for = 0;
create index task_leased on task (namespace, due) where state = 'in_progress';
create index task_run on task (run, namespace, position) where run is not null;

create table dependency (
    namespace  text not null,
    depends_on text not null,
    task       text not null,
    primary key (depends_on, namespace, task)
);

create table artefact (
    namespace text not null,
    task      text not null,
    path      text not null,
    run       text,
    sha256    text not null,
    size      bigint not null,
    bytes     bytea not null,       -- last, so that lists need not read past it; SQLite keeps blobs as they are
    primary key (task, namespace, path)
);
create index artefact_run on artefact (run, namespace, task, path) where run is not null;

create table log (namespace text primary key, number bigint not null);
create table event (
    namespace text not null,
    number    bigint not null,
    at        bigint not null,
    kind      text not null,
    run       text,
    task      text,
    data      text not null,        -- JSON
    primary key (namespace, number)
);
create index event_run on event (run, namespace, number) where run is not null;
