"""Makes a conversation that differs as small as it can be while it still differs."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from tests.differential.speech import HALF, TOGETHER, Conversation, Speaker, Word

T = TypeVar("T")
PLAIN = "select 1"
Judge = Callable[[Conversation], bool]


def shrink(found: Conversation, is_wrong: Judge, seconds: float) -> Conversation:
    """The smallest conversation that was found in the time for which *is_wrong*."""
    ends = time.monotonic() + seconds
    better: Conversation | None = found
    while better is not None:
        found, better = better, None
        for smaller in candidates(found):
            if time.monotonic() > ends:
                return found
            if is_sound(smaller) and is_wrong(smaller):
                better = smaller
                break
    return found


def candidates(one: Conversation) -> Iterator[Conversation]:
    """Smaller ones; those first that leave out most."""
    for number in reversed(range(len(one.speakers))):
        if len(one.speakers) > 1:
            yield replace(one, speakers=without(one.speakers, number, 1))
    for number, speaker in enumerate(one.speakers):
        for smaller in smaller_speakers(speaker):
            yield replace(one, speakers=put(one.speakers, number, smaller))
    if one.size > 1:
        yield replace(one, size=1)


def smaller_speakers(speaker: Speaker) -> Iterator[Speaker]:
    if speaker.chop is not None:
        yield replace(speaker, chop=None)
    for name in speaker.startup:
        kept = {n: text for n, text in speaker.startup.items() if n != name}
        yield replace(speaker, startup=kept)
    size = len(speaker.words)
    while size := size // 2:
        for start in range(len(speaker.words) - size, -1, -size):
            yield replace(speaker, words=without(speaker.words, start, size))
    for number, word in enumerate(speaker.words):
        for simpler in simpler_words(word):
            yield replace(speaker, words=put(speaker.words, number, simpler))
    if speaker.joins != TOGETHER:
        yield replace(speaker, joins=TOGETHER)


def simpler_words(word: Word) -> Iterator[Word]:
    """What says less, but is a message of the same kind."""
    if word.code == "Q" and len(word.arguments[0]) > len(PLAIN):
        yield replace(word, arguments=(PLAIN,))
    if word.code == "E" and word.arguments[1:] not in ((), (0,)):
        yield replace(word, arguments=word.arguments[:1])
    if word.code == HALF:
        yield Word("X")


def is_sound(one: Conversation) -> bool:
    """Whether every COPY that begins ends: else nobody answers."""
    for speaker in one.speakers:
        if not speaker.words or not copies_end(speaker.words):
            return False
    return True


def copies_end(words: list[Word]) -> bool:
    is_copying = False
    for word in words:
        text = word.arguments[-1] if word.code in "QP" else ""
        if word.code in ("Q", "P", "F", "X", HALF) and is_copying:
            return False
        if str(text).startswith("copy") and "from stdin" in str(text):
            is_copying = True
        elif word.code in ("c", "f"):
            is_copying = False
    return not is_copying


def without(items: list[T], start: int, count: int) -> list[T]:
    return items[:start] + items[start + count :]


def put(items: list[T], place: int, item: T) -> list[T]:
    return [*items[:place], item, *items[place + 1 :]]
