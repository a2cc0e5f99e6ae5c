-- Who caused an event, and what it is about. Events of older programs have no actor.

alter table event add column actor text;         -- the principal; null: unknown, as of another program than Skep
alter table event add column agent text;         -- which of the principal's agents, if one
alter table event add column on_behalf_of text;  -- in whose name, if another principal's
alter table event add column subject_kind text;  -- null: the event is about its task or, without one, its run
alter table event add column subject text;       -- the name of what it is about
