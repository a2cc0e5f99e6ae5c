-- Large values, each once in its namespace, by their hash. A row whose value is here has the hash, and instead of the
-- value an empty text, which is no JSON.

create table blob (
    namespace bigint not null,
    sha256    text not null,    -- of the bytes, in hexadecimal
    size      bigint not null,
    bytes     bytea not null,   -- last, so that nobody reads past it
    primary key (namespace, sha256)
);

alter table run add column plan_blob text;
alter table run add column report_blob text;
alter table task add column input_blob text;
alter table task add column result_blob text;

-- Who names a blob: asked before it is deleted.
create index run_plan_blob on run (namespace, plan_blob) where plan_blob is not null;
create index run_report_blob on run (namespace, report_blob) where report_blob is not null;
create index task_input_blob on task (namespace, input_blob) where input_blob is not null;
create index task_result_blob on task (namespace, result_blob) where result_blob is not null;

