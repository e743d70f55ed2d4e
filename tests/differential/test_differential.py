"""Some hundred random conversations, the same each time; and that faults are noticed.

`make fuzz` goes on with others; `python -m tests.differential` does so by hand.
"""

from dataclasses import replace

import pytest

from tests.differential import shrink
from tests.differential.compare import Heard, difference, kind
from tests.differential.generate import STILL_OPEN, generate
from tests.differential.ground import Arena
from tests.differential.liar import Liar, Lie
from tests.differential.speech import (
    MEET,
    MODES,
    SIGNS,
    WRITERS,
    Conversation,
    read,
)
from tests.relay import frames as f

PARTS, IN_A_PART = 8, 20
SHORT_PATIENCE = 1.0  # where silence is what is waited for
TALK = (
    'transaction/1/200 : Q("select 1") | P("s","select $1::int") B("","s","5") D E S'
    ' | Q("insert into t1 values (1)")'
)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_conversation_goes_as_directly(stage: Arena, part: int) -> None:
    """`python -m tests.differential --seed N` makes one that differs small."""
    for seed in range(part * IN_A_PART, (part + 1) * IN_A_PART):
        conversation = generate(seed)
        told = stage.play(conversation)
        assert not told, f"seed {seed}\n{conversation}\n" + "\n".join(told)


# The tester itself


def messages_of_talk() -> int:
    """How many messages answer TALK: T D C Z, 1 2 T D C Z, C Z."""
    return 12


@pytest.mark.parametrize("how", ["drop", "repeat", "change"])
@pytest.mark.parametrize("place", range(messages_of_talk()))
def test_wrong_message_is_noticed(
    stage: Arena, monkeypatch: pytest.MonkeyPatch, how: str, place: int
) -> None:
    with Liar(Lie(how, place)) as liar:
        monkeypatch.setattr(stage, "detour", liar.before)
        told = stage.play(read(TALK), SHORT_PATIENCE)
    assert told and told[0].startswith("client 1: "), told


def test_nothing_is_noticed_where_nothing_is_wrong(
    stage: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Liar(Lie("change", 10_000)) as liar:
        monkeypatch.setattr(stage, "detour", liar.before)
        assert not stage.play(read(TALK))


def test_wrong_answer_to_the_next_client_is_noticed(
    stage: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Liar(Lie("change", 3, connection=2)) as liar:
        monkeypatch.setattr(stage, "detour", liar.before)
        told = stage.play(read(TALK), SHORT_PATIENCE)
    assert told and told[0].startswith("next client 1: "), told


def test_other_rows_in_the_tables_are_noticed(
    stage: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Liar(rewrite=(b"t1 values (1)", b"t1 values (2)")) as liar:
        monkeypatch.setattr(stage, "detour", liar.before)
        told = stage.play(read(TALK))
    assert told and told[0].startswith("other rows"), told


def test_difference_is_made_small(
    stage: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a liar that asks another question than one of those it hears."""
    found = read(
        'transaction/3/200 : Q("select 4") / P("s","select 5") B("","s") E S | X &'
        ' TimeZone="UTC" Q("begin") Q("select 6") | Q("select \'crooked\'") Q("commit")'
        ' > P("","select 7") D("S","") B E("",2) S Q("select 8")'
    )
    with Liar(rewrite=(b"'crooked'", b"'correct'")) as liar:
        monkeypatch.setattr(stage, "detour", liar.before)
        [told] = stage.play(found)

        def is_wrong(smaller: Conversation) -> bool:
            return kind(told) in map(kind, stage.play(smaller))

        small = shrink.shrink(found, is_wrong, seconds=30)
    assert str(small) == """transaction/1/200 : Q("select 'crooked'")"""


def test_only_what_the_table_names_may_differ() -> None:
    note, other = f.notification("c1", "x"), f.notification("c1", "x")
    other = other[:5] + b"\0\0\1\1" + other[9:]
    heard = [Heard(messages=f.split(raw)[0]) for raw in (note, other)]
    assert difference(*heard) is None
    for raw in (
        f.complete("SELECT 1"),
        f.ready("T"),
        f.data_row(b"1"),
        f.NO_DATA + note,
    ):
        wrong = Heard(messages=f.split(raw)[0])
        assert difference(heard[0], wrong) and difference(wrong, heard[0])


def test_only_the_line_of_25p02_may_differ() -> None:
    """Where nothing can be parsed, it is the Parse before a Bind that is refused."""
    for sqlstate, same in (("25P02", True), ("42601", False)):
        fields = [
            f.fields("ERROR", sqlstate, "no")[:-1] + b"R" + r for r in (b"a", b"b")
        ]
        heard = [Heard(messages=[(b"E", body + b"\0\0")]) for body in fields]
        assert (difference(*heard) is None) == same


def test_line_says_all_of_a_conversation() -> None:
    for seed in range(300):
        for without in ((), tuple(STILL_OPEN)):
            made = generate(seed, without)
            assert read(str(made)) == made
            assert str(generate(seed, without)) == str(made)
    with pytest.raises(ValueError):
        read('transaction/1/200 : Q("select 1") what')


def test_everything_is_generated() -> None:
    """Each message, sign, mode and manner to leave; and nothing only by chance."""
    made = [generate(seed, without=()) for seed in range(400)]
    speakers = [speaker for one in made for speaker in one.speakers]
    codes = {word.code for speaker in speakers for word in speaker.words}
    assert codes == {*WRITERS, *SIGNS} - {MEET}
    assert {one.mode for one in made} == set(MODES)
    assert {one.size for one in made} == {1, 3}
    assert {one.prepared for one in made} == {200, 2, 0}
    assert {len(one.speakers) for one in made} == {1, 2, 3}
    assert any(speaker.chop is None for speaker in speakers)
    assert any(speaker.chop is not None for speaker in speakers)
    assert {speaker.joins for speaker in speakers} == {"&", ">"}


def test_what_is_still_open_is_left_out() -> None:
    """With a switch on, something is generated that is not without it."""
    for name in STILL_OPEN:
        others = [other for other in STILL_OPEN if other != name]
        assert any(
            str(generate(seed)) != str(generate(seed, others)) for seed in range(100)
        ), name


def test_shrinking_keeps_every_copy_whole() -> None:
    whole = read('session/1/0 : Q("copy t1 from stdin") d("1\\tx\\n") c').speakers[0]
    assert shrink.is_sound(Conversation(speakers=[whole]))
    torn = replace(whole, words=whole.words[:2])
    assert not shrink.is_sound(Conversation(speakers=[torn]))
