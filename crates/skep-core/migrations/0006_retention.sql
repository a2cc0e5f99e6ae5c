-- A log begins where something is still kept. Whoever follows it from an earlier number is told so.

alter table namespace add column first_event bigint not null default 1;
update namespace set first_event =
    coalesce((select min(number) from event where event.namespace = namespace.id), last_event + 1);

-- Runs that are deleted: their row goes at once, and what belonged to them step by step.
create table deletion (
    namespace bigint not null,
    run       text not null,
    primary key (namespace, run)
);

-- Events of no run and no task are deleted by their age.
create index event_loose on event (namespace, at) where run is null and task is null;
