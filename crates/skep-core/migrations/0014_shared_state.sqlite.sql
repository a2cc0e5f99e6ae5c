-- What agents that work together share: files with claims, steps, members, messages, memory. Each workspace of a team
-- is a namespace of its own, and numbers its steps, its messages and its claims' tokens itself, without gaps.

alter table namespace add column first_step bigint not null default 1;
alter table namespace add column last_step bigint not null default 0;
alter table namespace add column first_message bigint not null default 1;
alter table namespace add column last_message bigint not null default 0;
alter table namespace add column last_token bigint not null default 0;
alter table namespace add column memories bigint not null default 0;       -- rows of `memory`
alter table namespace add column memory_bytes bigint not null default 0;   -- of their keys and values
alter table namespace add column memory_revision bigint not null default 0; -- the highest of those that are deleted

create table file (
    namespace bigint not null,
    path      text not null,
    twin      text not null,    -- the path as file systems see it that take `A` for `a`: no two files have the same
    revision  bigint not null,  -- the newest; what follows is of that one
    sha256    text,             -- of the contents, which are a blob; null: the file was deleted
    size      bigint not null,
    author    text,             -- the principal; null: unknown
    agent     text,             -- which of the principal's agents, if one
    at        bigint not null,
    primary key (namespace, path)
);
create unique index file_twin on file (namespace, twin) where sha256 is not null;

create table revision (
    namespace bigint not null,
    path      text not null,
    number    bigint not null,  -- 1, 2, 3, … of its file
    base      bigint,           -- the revision that its author had seen; 0: none; null: the author did not say
    sha256    text,
    size      bigint not null,
    author    text,
    agent     text,
    at        bigint not null,
    bypassed  bigint,           -- the token of another's claim on the file, where the change was made in a directory
    primary key (namespace, path, number)
) without rowid;
create index revision_blob on revision (namespace, sha256) where sha256 is not null;
create index revision_at on revision (namespace, at, path, number);

-- A directory that has the files of a workspace, too, and the hub that keeps both in step.
create table directory (
    namespace bigint not null primary key,
    place     text not null,    -- which directory of which machine
    hub       text not null,
    until     bigint not null   -- when another hub may take over, unless this one says that it lives
);

-- What the directory and the store had of a file when they were last the same. There is no row if that was nothing.
create table directory_file (
    namespace bigint not null,
    path      text not null,
    revision  bigint not null,
    sha256    text not null,
    primary key (namespace, path)
) without rowid;

create table claim (
    namespace bigint not null,
    token     bigint not null,  -- given once, and never again
    pattern   text not null,    -- a path, or a glob
    folded    text not null,    -- the same as paths are compared; of a path, its twin
    is_glob   boolean not null,
    is_shared boolean not null,
    is_held   boolean not null, -- or else it waits for those before it
    principal text not null,
    agent     text,
    at        bigint not null,  -- when it was asked for
    renewed   bigint not null,  -- when it was granted, or last renewed
    until     bigint not null,  -- when it is over, unless it is renewed; what is over is not there for anybody
    primary key (namespace, token)
) without rowid;
create index claim_folded on claim (namespace, folded);
create index claim_glob on claim (namespace, token) where is_glob;

create table step (
    namespace bigint not null,
    number    bigint not null,
    at        bigint not null,
    principal text not null,
    agent     text,
    level     text not null,
    message   text not null,
    data      text,             -- JSON
    key       text,             -- the idempotency key of the principal, if it gave one
    primary key (namespace, number)
) without rowid;
create unique index step_key on step (namespace, principal, key) where key is not null;

create table member (
    namespace bigint not null,
    id        text not null,    -- the agent
    principal text not null,    -- whose it is
    role      text,
    joined    bigint not null,
    ttl       bigint not null,  -- microseconds that it counts as present after a heartbeat
    until     bigint,           -- when it is away, unless it is heard of by then; null: it has left
    seen      bigint not null,  -- of the messages to all up to this one, what it has not acknowledged is in its inbox
    primary key (namespace, id)
);

create table message (
    namespace bigint not null,
    number    bigint not null,
    at        bigint not null,
    principal text not null,
    sender    text not null,    -- the agent, or else the principal
    recipient text,             -- the agent; null: all
    kind      text not null,
    reply_to  bigint,           -- the number of a message
    key       text,             -- the idempotency key of the principal, if it gave one
    size      bigint not null,  -- bytes of the body
    body      text not null,    -- JSON
    body_blob text,
    primary key (namespace, number)
);
create index message_to_all on message (namespace, number, sender) where recipient is null;
create unique index message_key on message (namespace, principal, key) where key is not null;
create index message_body_blob on message (namespace, body_blob) where body_blob is not null;

create table inbox (
    namespace bigint not null,
    agent     text not null,
    number    bigint not null,  -- of a message that it has not acknowledged: to it alone, or to all up to `member.seen`
    primary key (namespace, agent, number)
) without rowid;

create table memory (
    namespace  bigint not null,
    id         text not null,   -- the key
    place      bigint not null,   -- -1, -2, -3, …: in an index, the entries that were made last come first
    revision   bigint not null,
    bytes      bigint not null,   -- of the key and the value
    words      bigint not null,   -- rows of `memory_word`
    author     text not null,
    agent      text,
    created    bigint not null,
    updated    bigint not null,
    expires    bigint,            -- null: never
    value      text not null,     -- JSON
    value_blob text,
    primary key (namespace, id)
);
create unique index memory_place on memory (namespace, place);
create index memory_expires on memory (expires) where expires is not null;
create index memory_value_blob on memory (namespace, value_blob) where value_blob is not null;

-- The words of keys and values, to search for.
create table memory_word (
    namespace bigint not null,
    word      text not null,
    place     bigint not null,    -- that of the entry
    count     bigint not null,    -- how often it is there
    primary key (namespace, word, place)
) without rowid;
create index memory_word_place on memory_word (namespace, place, word, count);
