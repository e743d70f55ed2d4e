create role pooler_lookup login;
create role app_user login password 'app-pw';
create or replace function public.user_search(wanted text)
    returns table (usename name, passwd text)
    language sql security definer set search_path = pg_catalog
    as $$ select usename, passwd from pg_shadow where usename = wanted $$;
revoke all on function public.user_search(text) from public;
grant execute on function public.user_search(text) to pooler_lookup;
