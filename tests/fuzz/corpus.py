"""The inputs that we keep: one archive for each target, `corpus/TARGET.tar.xz`.

They are what fuzzing has found worth keeping, minimised: each reaches an edge that no
other does. `python -m tests.fuzz keep` writes them anew, the same bytes for the same
inputs.
"""

import hashlib
import io
import lzma
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent / "corpus"


def archive(name: str) -> Path:
    """Where the inputs of a target are kept."""
    return HERE / f"{name}.tar.xz"


def name_of(raw: bytes) -> str:
    """An input's name: short, and the same each time."""
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:16]


def kept(name: str) -> list[tuple[str, bytes]]:
    """Names and bytes of a target's inputs."""
    found = []
    with tarfile.open(archive(name)) as opened:
        for member in opened:
            file = opened.extractfile(member)
            if file is not None:
                found.append((member.name, file.read()))
    return found


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Put these inputs in the place of what is kept; alike ones beside each other."""
    HERE.mkdir(exist_ok=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for raw in sorted(set(inputs), key=lambda one: (one[:4], len(one), one)):
            member = tarfile.TarInfo(name_of(raw))
            member.size = len(raw)
            opened.addfile(member, io.BytesIO(raw))
    archive(name).write_bytes(lzma.compress(packed.getvalue(), preset=9))


def unpack(name: str, place: Path, most: int | None = None) -> int:
    """Put a target's inputs, or some of them, into a directory; how many."""
    place.mkdir(parents=True, exist_ok=True)
    inputs = kept(name)
    if most is not None and most < len(inputs):
        inputs = random.sample(inputs, max(most, 1))
    for file, raw in inputs:
        (place / file).write_bytes(raw)
    return len(inputs)
