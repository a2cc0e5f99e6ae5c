-- What a task is called in its run. Until now its id began with that of the run, and ended with this.

alter table task add column step text;
update task set step = substr(id, length(run) + 2) where run is not null and substr(id, 1, length(run) + 1) = run || '/';
