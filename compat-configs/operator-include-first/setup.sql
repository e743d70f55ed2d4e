create role _archive_lookup login password 'lookup-pw';
create role archive login password 'archive-pw';
create schema if not exists pgbouncer;
create or replace function pgbouncer.get_auth(username text)
    returns table (username text, password text)
    language sql security definer set search_path = pg_catalog
    as $$ select rolname::text, rolpassword::text from pg_authid where rolname = $1 $$;
grant usage on schema pgbouncer to _archive_lookup;
