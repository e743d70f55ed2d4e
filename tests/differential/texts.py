"""The SQL that generated conversations are made of.

`{t}` stands for the speaker's own table, `{n}` for its number: what clients do at the
same time must not meet, except in statements whose text they share. What depends on
time, process, or order of rows must not be shown.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """A text for Parse, with good and bad values for its parameters."""

    text: str
    good: tuple[tuple[str, ...], ...] = ((),)
    bad: tuple[tuple[str, ...], ...] = (("1", "2", "3"),)  # a wrong count, a bad value
    fails: tuple[tuple[str, ...], ...] = ()  # when executed


STATEMENTS = [
    Statement("select 4"),
    Statement("select $1::int + 1", (("5",), ("-7",)), (("x",), ())),
    Statement("select $1::text, $2::int", (("{n}", "3"),), (("{n}",), ("a", "b"))),
    Statement("select generate_series(1, $1::int)", (("5",), ("0",)), (("many",),)),
    Statement("select 'none' where false"),
    Statement("select 10 / $1::int", (("3",),), (("",),), (("0",),)),
    Statement("select repeat($1::text, 9000)", (("xyz",),), ((),)),
    Statement(
        "insert into {t} values ($1::int, $2) returning a",
        (("1", "one"),),
        (("one",),),
        (("1", "bad"),),
    ),
    Statement("update {t} set b = $1 where a = 2", (("new",),), ((),), (("bad",),)),
    Statement("delete from {t} where a > $1", (("3",),), (("x",),)),
    Statement("select a, b from {t} order by a"),
    Statement("select current_setting('timezone')"),
    Statement("show application_name"),
    Statement("set timezone = 'Asia/Tokyo'"),
    Statement("values (1, 'a'), (2, 'b'), (3, 'c')"),
    Statement("do $$ begin raise notice 'told {n}'; end $$"),
    Statement(""),
]
BLOCKS = [Statement("begin"), Statement("commit"), Statement("rollback")]
REFUSED = [
    "selec 1",
    "select nonsense",
    "select * from no_such_table",
    "select 1; select 2",
]
QUERIES = [
    "select 4",
    "select 'I am {n}'",
    "select generate_series(1, 3)",
    "",
    " ; ",
    "-- nothing",
    "select 1; select 2",
    "insert into {t} values (1, 'q')",
    "insert into {t} values (2, 'q') on conflict do nothing",
    "update {t} set b = 'u' where a = 1",
    "select a, b from {t} order by a",
    "do $$ begin raise notice 'noted'; end $$",
    "select repeat('r', 30000)",
    "show timezone",
    "show datestyle",
    "select current_setting('application_name')",
    "delete from {t}",
    "insert into {t} select generate_series(10, 14), 'five'",
    "notify c{n}, 'for nobody'",
]
FAILING = [
    "select 1/0",
    "selec",
    "insert into {t} values (3, 'bad')",
    "select 1; select 1/0; select 3",
    "insert into {t} values (4); selec",
    "insert into {t} values (5), (5)",
    "rollback to nowhere",
    "copy no_such_table from stdin",
    "copy (select 1/0) to stdout",
    "execute nobody",
    "deallocate nobody",
    "set timezone = 'Nowhere/Land'",
    "copy (select 10 / a from generate_series(-2, 2) a) to stdout",
]
SETS = [
    "set timezone = 'Europe/Paris'",
    "set timezone to 'UTC'",
    "set application_name = 'app {n}'",
    "set datestyle = 'German'",
    "select set_config('application_name', 'by {n}', false)",
    "set standard_conforming_strings = off",
    "set standard_conforming_strings = on",
    "set client_encoding = 'LATIN1'",
    "set client_encoding = 'UTF8'",
    "set session timezone = 'Asia/Kolkata'",
    "set datestyle = 'ISO, MDY'",  # a server's own
    "set application_name = ''",
]
LOCAL_SETS = [
    "set local timezone = 'Asia/Tokyo'",
    "set local statement_timeout = '1min'",
    "set local datestyle to default",
    "set local application_name to default",
]
RESETS = [
    "reset timezone",
    "reset application_name",
    "reset all",
    "set timezone to default",
    "set time zone local",
    "reset datestyle",
    '/* a note */ reset "Application_Name"',
    "select 1; reset datestyle",
    "reset datestyle; set datestyle = 'ISO, MDY'",
    "set session datestyle to default; select 2",
]
FORGETTING = [
    "discard all",
    "deallocate all",
    "DEALLOCATE PREPARE ALL",
    "/* a note */ deallocate all",
    "-- a note\ndiscard all",
    "deallocate all; select 7",
    " /**/ DISCARD /* all */ ALL ",
    "discard plans",
    "discard sequences",
]
DISCARDS_ALL = ("discard all", "-- a note\ndiscard all", " /**/ DISCARD /* all */ ALL ")
# Of what was prepared by the protocol.
DEALLOCATING = [
    "deallocate {}",
    "deallocate {}",
    "deallocate prepare {};;",
    "/* a note */ deallocate {} -- s1",
    "select 7; deallocate {}",
    "deallocate {}; select 7",
    "select 'deallocate s1; '; deallocate nobody; deallocate {}",
]
# What lives as long as a session, which only session pooling promises.
OF_A_SESSION = [
    "prepare own as select 'own {n}'",
    "execute own",
    "deallocate own",
    "deallocate prepare own",
    "listen c{n}",
    "notify c{n}, 'note'",
    "unlisten *",
    "set work_mem = '5MB'",
    "show work_mem",
    "create temp table if not exists mine (x int)",
    "select count(*) from mine",
    "declare held cursor with hold for select generate_series(1, 4)",
    "fetch 2 from held",
    "select pg_advisory_lock({n})",
    "set statement_timeout = '30s'",
    "show statement_timeout",
    "select pg_advisory_unlock_all()",
    "discard temp",
    "close all",
]
IN_A_BLOCK = [
    "savepoint one",
    "rollback to one",
    "release one",
    "declare cur cursor for select 1",
    "fetch all from cur",
    "lock table {t}",
]
COPIES_IN = [
    "copy {t} from stdin",
    "copy {t} (a) from stdin",
    "copy {t} from stdin (format csv)",
]
GOOD_LINES = {
    COPIES_IN[0]: "{}\tcopied\n",
    COPIES_IN[1]: "{}\n",
    COPIES_IN[2]: "{},csv\n",
}
BAD_LINES = ["x\ty\n", "1\n2\n1\n1\t2\t3\n", "9\tbad\n"]
COPIES_OUT = [
    "copy {t} to stdout",
    "copy (select generate_series(1, 3)) to stdout",
    "copy (select repeat('o', 2000) from generate_series(1, 9)) to stdout",
]
CALLS = [(1397, "-5"), (1317, "shout"), (1397, "0")]  # abs(int4), length(text)
FAILING_CALLS = [(1397, "x"), (4_000_000_000, "1"), (1397, "99999999999")]
STARTUPS = [
    {"application_name": "started {n}"},
    {"TimeZone": "Asia/Tokyo"},
    {"DateStyle": "SQL, DMY"},
    {"DateStyle": "SQL, DMY"},
    {"application_name": "both", "TimeZone": "America/Lima"},
    {"options": "-c TimeZone=Europe/Rome"},
]
