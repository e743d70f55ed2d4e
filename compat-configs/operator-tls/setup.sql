create role pooler login password 'pooler-pw';
create role orders_app login password 'orders-pw';
create schema if not exists pooler;
create or replace function pooler.user_lookup(in i_username text, out uname text, out phash text)
    language sql security definer set search_path = pg_catalog
    as $$ select usename::text, passwd from pg_shadow where usename = i_username $$;
grant usage on schema pooler to pooler;
