-- Runs that were deleted may be followed by others of the same names, whose tasks have the same names, too. An answer to
-- a former task that is still on its way, or a deletion that is still going on, must not meet the new one.

alter table namespace add column epoch bigint not null default 0;  -- how many deletions of runs have begun
alter table deletion add column epoch bigint not null default 0;   -- the namespace's, with this deletion counted
alter table task add column epoch bigint not null default 0;       -- the namespace's when the task was made
