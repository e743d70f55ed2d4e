"""What a text says of itself: how it is described, and how many values it takes."""

import pytest

from bouncer.relay.intent import first_word_means, values_spoken_of


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("select 1", "reads"),
        (" (\n(SELECT 1))", "reads"),
        ("select 1 into t", "changes"),
        ("values (1)", "reads"),
        ("Show timezone", "reads"),
        ("insert into t values ($1)", "changes"),
        ("-- who\n/* app /* and */ page */ update t set a = 1", "changes"),
        ("with x as (select 1) insert into t select * from x", "changes"),
        ("SET timezone = 'UTC'", "utility"),
        ("set", "utility"),
        ("do $$ begin perform $1; end $$", "utility"),
        ("create table t as select $1::int", "other"),
        ("explain select 1", "other"),
        ("execute s", "other"),
        ("settle", "other"),
        ('"set"', "other"),
        ("", "other"),
        ("-- nothing", "other"),
        ("/* no end", "other"),
        ("/", "other"),
        ("1", "other"),
        ("x" * 100, "other"),
    ],
)
def test_first_word_tells_how_a_text_is_described(text, means):
    assert first_word_means(text.encode()) == means


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("select 1", 0),
        ("select $1", 1),
        ("select $2, $1, $10", 10),
        ("select '$2', $1", 1),
        ("select 'it''s $2', $1", 1),
        ('select "$2", $1', 1),
        ("select $$ $2 $$, $1", 1),
        ("select $a$ $2 $b$ $$ $3 $a$, $1", 1),
        ("select a$2, $1", 1),
        ("select $1 -- $2\n, $3", 3),
        ("select $1 /* $2 /* $4 */ $5 */", 1),
        ("select $1 - $2 / $3", 3),
        ("select $1::int+$2", 2),
        ("select $99999999999999999999", 65535),
        ("select $", 0),
        ("select $a", 0),
        ("select $a$", 0),
        ("select '$1", 0),
        ("select $1 /* $2", 1),
        ("select $é$ $2 $é$, $1", 1),
    ],
)
def test_values_of_a_text_are_counted(text, count):
    assert values_spoken_of(text.encode()) == count
