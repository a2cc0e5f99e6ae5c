-- What all tasks of a run may use. A task now says itself what it is to do, and so needs nothing else of its run's plan.

alter table run add column inputs text;       -- JSON; null: the run is of an older program, whose tasks need the plan
alter table run add column inputs_blob text;
create index run_inputs_blob on run (namespace, inputs_blob) where inputs_blob is not null;
