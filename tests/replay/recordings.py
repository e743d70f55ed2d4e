"""Finds and reads the recordings; one Case for each thing that was recorded."""

import json
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"
# Settings newer than 1.25.2, of the same form; only `cases(suite, path)` plays them.
NEWER = {"ini": RECORDINGS / "ini_after", "console": RECORDINGS / "admin_golden_after.json"}
# The corpus holds other people's configurations and stays outside of this project: it is
# played where a checkout has it beside itself.
CORPUS = RECORDINGS.parents[2] / "shared" / "reference" / "ini_corpus"
DEFAULTS = {
    "ini": RECORDINGS / "ini",
    "console": RECORDINGS / "admin_golden.json",
    "wire": RECORDINGS / "wire_golden.json",
    "corpus": CORPUS,
}
SUITES = tuple(DEFAULTS)
VERSIONS = ("release", "development")


@dataclass(frozen=True)
class Case:
    """One recorded case. *data* is its own part of the recording, *about* what its file says for all."""

    suite: str
    id: str
    title: str
    data: dict = field(repr=False, compare=False)
    about: dict = field(repr=False, compare=False)
    source: Path = field(repr=False)

    def __str__(self):
        return self.id

    @property
    def unstable(self):
        return bool(self.data.get("unstable"))

    @property
    def needs_development(self):
        """Whether it uses what only the development tree after 1.25.2 has."""
        return self.data.get("requires") == "development"

    def as_in(self, version):
        """The case as "release" or "development" behaves, or None if that was not recorded as different."""
        if version not in self.data:
            return None
        changes = dict(self.data[version])
        steps = [dict(step) for step in self.data.get("steps", [])]
        for number, expect in changes.pop("expect_by_step", {}).items():
            steps[int(number)]["expect"] = expect
        for number, keys in changes.pop("by_step", {}).items():
            steps[int(number)].update(keys)
        base = {key: value for key, value in self.data.items() if key not in VERSIONS}
        return replace(self, data={**base, **({"steps": steps} if steps else {}), **changes})

    @property
    def note(self):
        """What the recording says besides, such as a build option that it needs."""
        return self.data.get("note", "")


def cases(suite, path=None, pattern=None):
    """The cases of a suite ("ini", "console", "wire", "corpus").

    *path*: a directory (ini, corpus) or file (console, wire) of recordings; default: those shipped beside
    this tool. *pattern*: keep cases whose id contains it, or fits it if it has wildcards.
    """
    path = Path(path) if path else DEFAULTS[suite]
    if path.is_dir():
        path /= {"console": "admin_golden.json", "wire": "wire_golden.json"}.get(suite, "expected.json")
    found = list(_READERS[suite](path.resolve()))
    return [case for case in found if pattern is None or _fits(case.id, pattern)]


def _fits(name, pattern):
    return fnmatchcase(name, pattern) if re.search(r"[*?\[]", pattern) else pattern in name


@lru_cache
def _load(path):
    return json.loads(path.read_text())


def _ini(path):
    recording = _load(path)
    for name, data in recording["cases"].items():
        yield Case("ini", name, data["desc"], data, recording, path.parent)


def _corpus(path):
    for name, data in _load(path).items():
        yield Case("corpus", name, data.get("note", ""), data, {}, path.parent)


def _wire(path):
    recording = _load(path)
    for data in recording["scenarios"]:
        yield Case("wire", data["id"], data["title"], _unfold(data), recording, path)


def _console(path):
    recording = _load(path)
    for data in recording["cases"]:
        title = data.get("title") or " ".join(data.get("command", [])) or data.get("code", "").replace("\n", "; ")
        yield Case("console", data["id"], title, data, recording["meta"], path)


_READERS = {"ini": _ini, "console": _console, "wire": _wire, "corpus": _corpus}


# ---- the forms in which wire and console recordings write texts and messages

def _unfold(recorded):
    """Spell out texts written as {"repeat": unit, "count": n, ...}; fields of errors as pairs."""
    if isinstance(recorded, list):
        return [_unfold(item) for item in recorded]
    if isinstance(recorded, dict):
        if "repeat" in recorded:
            return recorded.get("prefix", "") + recorded["repeat"] * recorded["count"] + recorded.get("suffix", "")
        unfolded = {key: _unfold(value) for key, value in recorded.items()}
        if recorded.get("type") in ("ErrorResponse", "NoticeResponse"):
            unfolded["fields"] = [list(pair) for pair in unfolded["fields"].items()]
        return unfolded
    return recorded


def unfold_line(line):
    """A log line with runs such as k{6000} spelled out."""
    return re.sub(r"(.)\{(\d{3,})\}", lambda m: m[1] * int(m[2]), line)


def console_messages(recorded, standard_welcome):
    """Messages of a console recording in the form that protocol.py gives."""
    if recorded == "STANDARD_WELCOME":
        recorded = standard_welcome
    return [_console_message(message) for message in recorded]


def _console_message(recorded):
    m = {key: value for key, value in recorded.items() if key not in ("msg", "dir")}
    kind = {"EOF": "<connection closed>", "TIMEOUT": "<timeout>"}.get(recorded["msg"], recorded["msg"])
    if kind == "RowDescription":
        m = {"columns": [{"name": c["name"], "table": c["table_oid"], "attnum": c["attnum"], "oid": c["type_oid"],
                          "typlen": c["typlen"], "typmod": c["typmod"], "format": c["format"]} for c in m["fields"]]}
    elif kind == "BackendKeyData":
        m = {"key_hex": "<hex:8 bytes>"}
    elif kind == "AuthenticationMD5Password":
        m = {"salt_hex": m["salt"]}
    elif kind == "NegotiateProtocolVersion":
        version = m["newest_minor"]
        m = {"version": f"{version >> 16}.{version & 0xffff}", "options": m["unrecognized"]}
    return {"type": kind, **m}
