"""The form of the fuzzer's inputs, and the mutator that splices conversations."""

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.steps import (
    LONGEST,
    MOST_STEPS,
    Splicer,
    Step,
    messages_of,
    pack,
    unpack,
)
from tests.relay import frames as f

steps = st.builds(
    Step, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=200)
)
CONVERSATION = [
    Step(0, 0, f.parse("a", "select 1") + f.bind("a") + f.SYNC),
    Step(1, 0, f.PARSE_COMPLETE + f.BIND_COMPLETE + f.ready()),
    Step(3, 0),
]
OTHER = [Step(0, 1, f.query("begin") + f.query("commit")), Step(4, 1)]


def splicer():
    return Splicer({0: [f.SYNC, f.FLUSH], 1: [f.ready()]})


@given(st.binary(min_size=4, max_size=4), st.lists(steps, max_size=MOST_STEPS))
def test_input_says_what_was_packed(setup, some):
    assert unpack(pack(setup, some)) == (setup, some)


@given(st.binary(max_size=3000))
def test_every_input_means_something(raw):
    """Mutations know no rules: what is cut off or lies about its length is a step."""
    setup, some = unpack(raw)
    assert len(setup) == 4
    assert len(some) <= MOST_STEPS
    assert all(len(step.data) <= LONGEST for step in some)


@given(st.binary(max_size=500))
def test_messages_are_cut_without_loss(data):
    assert b"".join(messages_of(data)) == data


def test_messages_are_cut_at_their_borders():
    start = b"\0\0\0\x09\0\3\0\0\0"
    some = [start, f.query("select 1"), f.SYNC, f.parse("a", "b"), b"Q\0\0\1\0cut"]
    assert messages_of(b"".join(some)) == some


def test_mutations_leave_most_messages_whole():
    """Faults lie between good messages: most accidents happen to whole ones."""
    mutate = splicer()
    good = whole = 0
    for seed in range(2000):
        _, some = unpack(mutate.mutated(pack(b"abcd", CONVERSATION), 5000, seed))
        for step in some:
            for message in messages_of(step.data):
                good += 1
                length = int.from_bytes(message[1:5], "big")
                whole += len(message) == length + 1
    assert good > 4000
    assert whole / good > 0.6


def test_crossing_over_takes_messages_of_both():
    mutate = splicer()
    one, two = pack(b"abcd", CONVERSATION), pack(b"abcd", OTHER)
    woven = 0
    for seed in range(200):
        crossed = mutate.crossed(one, two, 5000, seed)
        woven += f.query("begin") in crossed and f.bind("a") in crossed
    assert woven > 50


def test_mutation_is_the_same_for_a_seed():
    raw = pack(b"abcd", CONVERSATION)
    assert splicer().mutated(raw, 5000, 7) == splicer().mutated(raw, 5000, 7)


def test_mutation_keeps_to_the_longest():
    mutate = splicer()
    raw = pack(b"abcd", CONVERSATION * 5)
    assert all(len(mutate.mutated(raw, 100, seed)) <= 100 for seed in range(300))
    assert all(len(mutate.crossed(raw, raw, 90, seed)) <= 90 for seed in range(300))
