-- What the tools are pointed at: one of each kind of thing that they look at.
create schema shop;
create type shop.state as enum ('new', 'paid', 'sent');
create domain shop.price as numeric(10, 2) check (value >= 0);
create table shop.customer (
    id int generated always as identity primary key,
    name text not null unique,
    address jsonb default '{}'
);
create table shop.purchase (
    id bigserial primary key,
    customer int references shop.customer on delete cascade,
    state shop.state default 'new',
    total shop.price,
    made timestamptz default '2024-01-01 00:00:00+00'
);
create index purchase_state on shop.purchase (state) where state <> 'sent';
create index purchase_total on shop.purchase (total, (total * 2));
create index customer_name on shop.customer using hash (lower(name));
cluster shop.purchase using purchase_pkey;
create view shop.open as
    select c.name, sum(p.total) as total
    from shop.customer c join shop.purchase p on p.customer = c.id
    where p.state <> 'sent' group by 1;
create materialized view shop.sums as select state, count(*) from shop.purchase group by 1;
create function shop.tax(shop.price) returns numeric language sql immutable
    as $$ select round($1 * 0.19, 2) $$;
create procedure shop.touch() language plpgsql as $$ begin commit; end $$;
create function shop.note() returns trigger language plpgsql
    as $$ begin new.made := '2024-02-02'; return new; end $$;
create trigger noted before update on shop.purchase
    for each row execute function shop.note();
create table shop.log (at date, line text) partition by range (at);
create table shop.log_2024 partition of shop.log
    for values from ('2024-01-01') to ('2025-01-01');
create table shop.blob (id int, data bytea, words tsvector, around box);
alter table shop.customer enable row level security;
create policy everybody on shop.customer using (true);
create sequence shop.numbers start 7 increment 3;
create statistics shop.together on customer, state from shop.purchase;
create publication everything for table shop.purchase;
comment on table shop.customer is 'who buys; "quoted", ''twice'', and ünïcode';
alter database :"DBNAME" set work_mem = '8MB';
insert into shop.customer (name, address)
    select 'customer ' || n, jsonb_build_object('street', repeat('x', n % 40))
    from generate_series(1, 300) n;
insert into shop.purchase (customer, state, total)
    select 1 + n % 300, (enum_range(null::shop.state))[1 + n % 3], n % 977
    from generate_series(1, 3000) n;
insert into shop.log select '2024-03-03', E'tab\tnewline\nbackslash\\ ' || n
    from generate_series(1, 50) n;
insert into shop.blob values (1, decode(repeat('00ff', 5000), 'hex'), 'a fat cat', '(1,1),(0,0)');
select lo_create(4711), lo_put(4711, 0, decode(repeat('ab', 10000), 'hex'));
refresh materialized view shop.sums;
