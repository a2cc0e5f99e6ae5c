-- Calls of MCP tools that outlive the request that made them (the protocol's extension `io.modelcontextprotocol/tasks`).
-- What a hub runs it holds until a moment that it puts off again and again; what nobody holds any more is taken over.

create table mcp_task (
    namespace  text not null,
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
    primary key (id, namespace)
);
create index mcp_task_principal on mcp_task (principal, namespace);
create index mcp_task_held on mcp_task (held_until, namespace) where held_until is not null;
create index mcp_task_expires on mcp_task (expires, namespace);
