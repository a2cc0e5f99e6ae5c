-- Names the life of the server between two crashes. Numbers of transactions mean the same only within one: those that
-- were not on the disk yet are given again. An unlogged table is empty after a crash, and on a standby that was
-- promoted; whoever finds it so gives the new name.

create unlogged table incarnation (
    only_one boolean primary key default true check (only_one),
    id       text not null default cast(gen_random_uuid() as text)
);
