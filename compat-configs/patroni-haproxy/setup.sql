create role pool_auth login password 'pool-pw';
create role bank_app login password 'bank-pw';
create or replace function public.user_search(wanted text)
    returns table (usename name, passwd text)
    language sql security definer set search_path = pg_catalog
    as $$ select usename, passwd from pg_shadow where usename = wanted $$;
grant execute on function public.user_search(text) to pool_auth;
