-- Namespaces become rows. Whoever writes in one locks its row first; its number leads the key of everything in it.

create table namespace (
    id         integer primary key,
    team       text not null,
    workspace  text not null,             -- empty: the team's own
    last_event bigint not null default 0, -- the number of its last event
    unique (team, workspace)
);
