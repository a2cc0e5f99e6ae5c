-- A task that is in progress belongs to a session of a worker, a session to a hub, and a hub says again and again that
-- it is alive. That is one row for each hub, however many tasks there are.

create table hub (
    id    text primary key,
    until bigint not null   -- when it is over, unless it says by then that it is alive
);
create table session (
    namespace bigint not null,
    id        text not null,
    hub       text not null,  -- the last one, which may be gone
    worker    text not null,
    token     text,           -- SHA-256 of what lets another hub take it over; null: nobody may
    primary key (namespace, id)
);
create index session_hub on session (hub, namespace);

alter table task add column session text;                       -- in_progress: whose
alter table task add column losses bigint not null default 0;   -- attempts whose session was lost
drop index task_leased;
-- What is in progress at the moment of the migration has no session, so it counts as lost and is given out again.
update task set due = null where state = 'in_progress';
create index task_session on task (namespace, session) where state = 'in_progress';
