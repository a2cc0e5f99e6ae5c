-- Priorities and deadlines of tasks, and what else tasks say.

alter table task add column priority bigint not null default 2;  -- 0 critical, 1 high, 2 medium, 3 low
alter table task add column deadline bigint;                     -- it has failed if it has not ended by then

-- While a task is in progress, `due` is now the moment since which it could have been started.
drop index task_ready;
create index task_ready on task (namespace, queue, due, position, id)
    where state = 'pending' and waiting_for = 0 and priority = 2;
create index task_ranked on task (namespace, queue, priority, due, position, id)
    where state = 'pending' and waiting_for = 0 and priority <> 2;
create index task_deadline on task (namespace, deadline)
    where deadline is not null and state in ('pending', 'in_progress');

-- What tasks say for people, and for who looks for them. Most say nothing, and have no row.
create table task_detail (
    namespace   bigint not null,
    id          text not null,
    title       text,
    description text,
    kind        text,
    parent      text,
    primary key (namespace, id)
);
create index task_detail_parent on task_detail (namespace, parent, id) where parent is not null;

create table task_tag (
    namespace bigint not null,
    id        text not null,
    kind      text not null,    -- `capability`, that its worker must have, or `label`
    tag       text not null,
    primary key (namespace, id, kind, tag)
);
create index task_tag_found on task_tag (namespace, kind, tag, id);

-- The words of titles and descriptions, to search for.
create table task_word (
    namespace bigint not null,
    id        text not null,
    word      text not null,
    primary key (namespace, id, word)
);
