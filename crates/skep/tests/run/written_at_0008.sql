-- The database of a program whose newest migration was 0008, with a run that has failed, and one whose process was
-- killed in the middle: `first` was completed, `held` was in progress. `{workspace}` stands for the workspace's path.

BEGIN TRANSACTION;
CREATE TABLE "artefact" (
    namespace bigint not null,
    task      text not null,
    path      text not null,
    run       text,
    sha256    text not null,
    size      bigint not null,
    bytes     bytea not null,       -- last, so that lists need not read past it; SQLite keeps blobs as they are
    primary key (namespace, task, path)
);
CREATE TABLE deletion (
    namespace bigint not null,
    run       text not null,
    primary key (namespace, run)
);
CREATE TABLE "dependency" (
    namespace  bigint not null,
    depends_on text not null,
    task       text not null,
    primary key (namespace, depends_on, task)
);
INSERT INTO "dependency" VALUES(1,'01m8failed0000000000000000/bad','01m8failed0000000000000000/then');
INSERT INTO "dependency" VALUES(1,'01m8killed0000000000000000/held','01m8killed0000000000000000/skipped');
INSERT INTO "dependency" VALUES(1,'01m8killed0000000000000000/held','01m8killed0000000000000000/last');
INSERT INTO "dependency" VALUES(1,'01m8killed0000000000000000/first','01m8killed0000000000000000/last');
CREATE TABLE "event" (
    namespace bigint not null,
    number    bigint not null,
    at        bigint not null,
    kind      text not null,
    run       text,
    task      text,
    data      text not null,        -- JSON
    primary key (namespace, number)
);
INSERT INTO "event" VALUES(1,1,1796033892583351,'run.started','01m8failed0000000000000000',NULL,'{"name":"mendable","tasks":2}');
INSERT INTO "event" VALUES(1,2,1796033892583351,'task.submitted','01m8failed0000000000000000','01m8failed0000000000000000/bad','{"queue":"01m8failed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,3,1796033892583351,'task.submitted','01m8failed0000000000000000','01m8failed0000000000000000/then','{"queue":"01m8failed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,4,1796033892600956,'task.started','01m8failed0000000000000000','01m8failed0000000000000000/bad','{"worker":"actor-2","attempt":1}');
INSERT INTO "event" VALUES(1,5,1796033892677062,'task.failed','01m8failed0000000000000000','01m8failed0000000000000000/bad','{"worker":"actor-2","attempt":1,"error":"bash exited with code 1"}');
INSERT INTO "event" VALUES(1,6,1796033892677062,'task.blocked','01m8failed0000000000000000','01m8failed0000000000000000/then','{"by":"01m8failed0000000000000000/bad"}');
INSERT INTO "event" VALUES(1,7,1796033892684568,'run.ended','01m8failed0000000000000000',NULL,'{"end":"failed"}');
INSERT INTO "event" VALUES(1,8,1796033892760121,'run.started','01m8killed0000000000000000',NULL,'{"name":"old","tasks":4}');
INSERT INTO "event" VALUES(1,9,1796033892760121,'task.submitted','01m8killed0000000000000000','01m8killed0000000000000000/first','{"queue":"01m8killed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,10,1796033892760121,'task.submitted','01m8killed0000000000000000','01m8killed0000000000000000/held','{"queue":"01m8killed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,11,1796033892760121,'task.submitted','01m8killed0000000000000000','01m8killed0000000000000000/skipped','{"queue":"01m8killed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,12,1796033892760121,'task.submitted','01m8killed0000000000000000','01m8killed0000000000000000/last','{"queue":"01m8killed0000000000000000/actor"}');
INSERT INTO "event" VALUES(1,13,1796033892787665,'task.started','01m8killed0000000000000000','01m8killed0000000000000000/first','{"worker":"actor-1","attempt":1}');
INSERT INTO "event" VALUES(1,14,1796033892787965,'task.started','01m8killed0000000000000000','01m8killed0000000000000000/held','{"worker":"actor-2","attempt":1}');
INSERT INTO "event" VALUES(1,15,1796033892799046,'task.completed','01m8killed0000000000000000','01m8killed0000000000000000/first','{"worker":"actor-1","attempt":1}');
CREATE TABLE hub (
    id    text primary key,
    until bigint not null   -- when it is over, unless it says by then that it is alive
);
INSERT INTO "hub" VALUES('01M8NZCMDDX77WBESGVAT30T6J',1796033905786328);
CREATE TABLE "mcp_task" (
    -- A hub of an older version that still runs would go on adding names, which SQLite takes although they are no
    -- numbers. To SQLite, any text is greater than any number. (All else that such a hub writes needs the table `log`.)
    namespace  bigint not null check (namespace < 9223372036854775807),
    id         text not null,
    principal  text not null,
    request    text not null,    -- JSON; the parameters of the call
    may_repeat boolean not null,
    attempt    bigint not null,
    state      text not null,
    content    text,             -- JSON; input_required: requests; completed: result; failed: error
    bytes      bigint not null,  -- of request and content
    holder     text not null,    -- the hub that runs it or ran it last
    held_until bigint,           -- null when it is over
    created    bigint not null,
    updated    bigint not null,
    expires    bigint not null,
    primary key (namespace, id)
);
CREATE TABLE namespace (
    id         integer primary key,
    team       text not null,
    workspace  text not null,             -- empty: the team's own
    last_event bigint not null default 0, first_event bigint not null default 1, -- the number of its last event
    unique (team, workspace)
);
INSERT INTO "namespace" VALUES(1,'main','',15,1);
INSERT INTO "namespace" VALUES(2,'','',0,1);
CREATE TABLE "run" (
    namespace bigint not null,
    id        text not null,
    name      text not null,
    plan      text not null,   -- JSON
    directory text not null,
    state     text not null,
    created   bigint not null,
    ended     bigint,
    report    text,            -- JSON
    primary key (namespace, id)
);
INSERT INTO "run" VALUES(1,'01m8failed0000000000000000','mendable','{"name":"mendable","description":"","inputs":{},"agents":{},"tasks":{"bad":{"description":"","role":"actor","tool":"bash","args":{"command":"test -e /workspace/mended"},"depends_on":[],"retries":0,"allow_failure":false},"then":{"description":"","role":"actor","tool":"bash","args":{"command":"echo then"},"depends_on":["bad"],"retries":0,"allow_failure":false}}}','{workspace}','failed',1796033892583351,1796033892684568,'{"markdown":"# mendable\n\n## bad\n\nfailed: bash exited with code 1\n\n## then\n\nblocked: bad did not succeed\n\n## Tasks\n\nfailed in 94 ms.\n\n| task | tool | status | agent | attempts | time |\n| --- | --- | --- | --- | ---: | ---: |\n| bad | bash | failed | actor-2 | 1 | 76 ms |\n| then | bash | blocked |  | 0 |  |\n"}');
INSERT INTO "run" VALUES(1,'01m8killed0000000000000000','old','{"name":"old","description":"","inputs":{"greeting":"hello"},"agents":{},"tasks":{"first":{"description":"","role":"actor","tool":"compose","args":{"data":{"said":"{{ inputs.greeting }}"}},"depends_on":[],"retries":0,"allow_failure":false},"held":{"description":"","role":"actor","tool":"bash","args":{"command":"until test -e /workspace/go; do sleep 0.05; done; echo held"},"depends_on":[],"retries":0,"allow_failure":false},"skipped":{"description":"","role":"actor","tool":"bash","args":{"command":"echo no"},"depends_on":["held"],"retries":0,"allow_failure":false,"when":"{{ inputs.greeting == ''nothing'' }}"},"last":{"description":"","role":"actor","tool":"bash","args":{"command":"echo {{ tasks.first.result.data.said | quote }} {{ inputs.greeting | quote }} {{ tasks.held.result.stdout | trim | quote }} {{ run.name | quote }} > /outputs/out.txt; cat /outputs/out.txt"},"depends_on":["held","first"],"retries":0,"allow_failure":false,"timeout":"9s"}},"report":"# {{ run.name }}\n{% for t in tasks %}{{ t }} {% endfor %}{{ tasks.last.result.stdout }}\n"}','{workspace}','running',1796033892760121,NULL,NULL);
CREATE TABLE session (
    namespace bigint not null,
    id        text not null,
    hub       text not null,  -- the last one, which may be gone
    worker    text not null,
    token     text,           -- SHA-256 of what lets another hub take it over; null: nobody may
    primary key (namespace, id)
);
INSERT INTO "session" VALUES(1,'01M8NZCMDDX77WBESGVAT30T6J/coordinator-1','01M8NZCMDDX77WBESGVAT30T6J','coordinator-1',NULL);
INSERT INTO "session" VALUES(1,'01M8NZCMDDX77WBESGVAT30T6J/actor-1','01M8NZCMDDX77WBESGVAT30T6J','actor-1',NULL);
INSERT INTO "session" VALUES(1,'01M8NZCMDDX77WBESGVAT30T6J/actor-2','01M8NZCMDDX77WBESGVAT30T6J','actor-2',NULL);
INSERT INTO "session" VALUES(1,'01M8NZCMDDX77WBESGVAT30T6J/actor-3','01M8NZCMDDX77WBESGVAT30T6J','actor-3',NULL);
INSERT INTO "session" VALUES(1,'01M8NZCMDDX77WBESGVAT30T6J/actor-4','01M8NZCMDDX77WBESGVAT30T6J','actor-4',NULL);
CREATE TABLE skep_migration
    (number bigint primary key, name text not null, sha256 text not null, oldest bigint not null default 0);
INSERT INTO "skep_migration" VALUES(1,'start','831eb63911ad9fa214873d6aa4cb8b565fe17cbe5dbefbbcb60caf5ebe8943a0',0);
INSERT INTO "skep_migration" VALUES(2,'mcp_tasks','ba9beebe4980eead12838f2643ff0e7a8491b2487c978557e08c8cd315f7d8f1',0);
INSERT INTO "skep_migration" VALUES(3,'namespaces','34fd6efaf287e3db88ea2212a5aface6f63ba370a3f548d54fbcd0c8ff0181bf',4);
INSERT INTO "skep_migration" VALUES(4,'keys','317308c117bb76302c10d78643186283a1af874984e84f66fa4015f09b813bfd',4);
INSERT INTO "skep_migration" VALUES(5,'sessions','647a0b2a502fab8ffa9a93ebac3077031722d0ea09ea56fc33ceffdc951af11c',5);
INSERT INTO "skep_migration" VALUES(6,'retention','2b688db0f995180dfe84e1028a7a951e68cee98f27cc2523305c21765b067926',5);
INSERT INTO "skep_migration" VALUES(7,'foreign','640f4b6cb4ef8ca60d09f291f00bd9a6cf7dccfef62f62c3d7369346a3760473',7);
INSERT INTO "skep_migration" VALUES(8,'incarnation','7c91af889fad7a27c878558049c2485ad34eb9912f03bb338ec4ea1d018e3d95',7);
CREATE TABLE "task" (
    namespace      bigint not null,
    id             text not null,
    run            text,
    queue          text not null,
    position       bigint not null,
    depends_on     text not null,   -- JSON; never changes, so `dependency` says the same
    retries_max    bigint not null,
    retry_delay_us bigint not null,
    allow_failure  boolean not null,
    state          text not null,
    due            bigint,          -- pending: may start at; in_progress: lease ends at
    waiting_for    bigint not null, -- pending: dependencies that are unfinished
    attempt        bigint not null,
    failures       bigint not null,
    worker         text,            -- in_progress: who
    input          text not null,   -- JSON
    result         text, session text, losses bigint not null default 0,            -- JSON; completed: output; failed: error; blocked: the task it would have needed
    primary key (namespace, id)
);
INSERT INTO "task" VALUES(1,'01m8failed0000000000000000/bad','01m8failed0000000000000000','01m8failed0000000000000000/actor',0,'[]',0,1000000,0,'failed',NULL,0,1,1,NULL,'{"step":"bad","tool":"bash"}','{"error":"bash exited with code 1","output":{"exit_code":1,"stdout":"","stderr":"","json":null,"outputs":[],"skipped":[],"duration_ms":24.902156}}',NULL,0);
INSERT INTO "task" VALUES(1,'01m8failed0000000000000000/then','01m8failed0000000000000000','01m8failed0000000000000000/actor',1,'["01m8failed0000000000000000/bad"]',0,1000000,0,'blocked',NULL,1,0,0,NULL,'{"step":"then","tool":"bash"}','"01m8failed0000000000000000/bad"',NULL,0);
INSERT INTO "task" VALUES(1,'01m8killed0000000000000000/first','01m8killed0000000000000000','01m8killed0000000000000000/actor',0,'[]',0,1000000,0,'completed',NULL,0,1,0,NULL,'{"step":"first","tool":"compose"}','{"result":{"data":{"said":"hello"}},"cached":false,"place":"local"}',NULL,0);
INSERT INTO "task" VALUES(1,'01m8killed0000000000000000/held','01m8killed0000000000000000','01m8killed0000000000000000/actor',1,'[]',0,1000000,0,'in_progress',NULL,0,1,0,'actor-2','{"step":"held","tool":"bash"}',NULL,'01M8NZCMDDX77WBESGVAT30T6J/actor-2',0);
INSERT INTO "task" VALUES(1,'01m8killed0000000000000000/skipped','01m8killed0000000000000000','01m8killed0000000000000000/actor',2,'["01m8killed0000000000000000/held"]',0,1000000,0,'pending',1796033892760121,1,0,0,NULL,'{"step":"skipped","tool":"bash"}',NULL,NULL,0);
INSERT INTO "task" VALUES(1,'01m8killed0000000000000000/last','01m8killed0000000000000000','01m8killed0000000000000000/actor',3,'["01m8killed0000000000000000/held","01m8killed0000000000000000/first"]',0,1000000,0,'pending',1796033892760121,1,0,0,NULL,'{"step":"last","tool":"bash"}',NULL,NULL,0);
CREATE INDEX run_newest on run (namespace, created, id);
CREATE INDEX task_ready on task (namespace, queue, due, position, id) where state = 'pending' and waiting_for = 0;
CREATE INDEX task_run on task (namespace, run, position) where run is not null;
CREATE INDEX artefact_run on artefact (namespace, run, task, path) where run is not null;
CREATE INDEX event_run on event (namespace, run, number) where run is not null;
CREATE INDEX mcp_task_principal on mcp_task (namespace, principal);
CREATE INDEX mcp_task_held on mcp_task (namespace, held_until) where held_until is not null;
CREATE INDEX mcp_task_expires on mcp_task (namespace, expires);
CREATE INDEX session_hub on session (hub, namespace);
CREATE INDEX task_session on task (namespace, session) where state = 'in_progress';
CREATE INDEX event_loose on event (namespace, at) where run is null and task is null;
COMMIT;
