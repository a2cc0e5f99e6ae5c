-- What another program than Skep changes is noted, and hubs make events of it. Skep's sessions set `skep.hub`.

create table foreign_change (
    namespace bigint not null,
    relation  text not null,
    key       text not null,
    primary key (namespace, relation, key)
);

-- Whoever may change our tables may not be allowed to write notes, and has another search path.
create function note_foreign_change() returns trigger language plpgsql security definer set search_path = pg_catalog
as $$
declare
    note text := format(
        'insert into %I.foreign_change (namespace, relation, key) values (($1).namespace, $2, ($1).%I)
         on conflict do nothing', tg_table_schema, tg_argv[0]);
begin
    if tg_op = 'DELETE' then
        execute note using old, cast(tg_table_name as text);
    else
        execute note using new, cast(tg_table_name as text);
    end if;
    return null;
end
$$;

create trigger foreign_change after insert or update or delete on run for each row
    when (coalesce(current_setting('skep.hub', true), '') = '') execute function note_foreign_change('id');
create trigger foreign_change after insert or update or delete on task for each row
    when (coalesce(current_setting('skep.hub', true), '') = '') execute function note_foreign_change('id');
create trigger foreign_change after insert or update or delete on dependency for each row
    when (coalesce(current_setting('skep.hub', true), '') = '') execute function note_foreign_change('task');
create trigger foreign_change after insert or update or delete on artefact for each row
    when (coalesce(current_setting('skep.hub', true), '') = '') execute function note_foreign_change('task');
create trigger foreign_change after insert or update or delete on mcp_task for each row
    when (coalesce(current_setting('skep.hub', true), '') = '') execute function note_foreign_change('id');
