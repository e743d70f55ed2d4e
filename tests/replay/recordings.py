"""Finds and reads the recordings; one Case for each thing that was recorded."""

import functools
import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

RECORDINGS = Path(__file__).resolve().parents[1] / "recordings"
# What stands beside the recordings of 1.26.1, of the same form; only `cases(suite, path)` plays it.
# "restart": what 1.25.2 still had and we keep.
BESIDE = {
    "restart": {
        "ini": RECORDINGS / "ini_restart_1_25",
        "console": RECORDINGS / "admin_restart_1_25.json",
        "wire": RECORDINGS / "wire_restart_1_25.json",
    },
}
# The corpus holds other people's configurations and stays outside of this project: it is
# played where a checkout has it beside itself.
CORPUS = RECORDINGS.parents[2] / "shared" / "reference" / "ini_corpus"
DEFAULTS = {
    "ini": RECORDINGS / "ini",
    "console": RECORDINGS / "admin_golden.json",
    "wire": RECORDINGS / "wire_golden.json",
    "corpus": CORPUS,
}
FILES = {"console": "admin_golden.json", "wire": "wire_golden.json"}     # in a directory of recordings
SUITES = tuple(DEFAULTS)
WITH_FIELDS = ("ErrorResponse", "NoticeResponse")
# What is written shorter: the same one or two characters, a hundred times or more.
LONG_RUN = re.compile(r"(.)\1{99,}|(..)\2{49,}", re.DOTALL)
# How recordings of the console name ends of connections and the parts of a column.
ENDS = {"EOF": "<connection closed>", "TIMEOUT": "<timeout>"}
COLUMN = {"name": "name", "table": "table_oid", "attnum": "attnum", "oid": "type_oid", "typlen": "typlen",
          "typmod": "typmod", "format": "format"}


@dataclass(frozen=True)
class Case:
    """One recorded case. *written* is its own part of the recording as it stands in the file, *data* the same
    with its abbreviations spelled out, *about* what the file says for all."""

    suite: str
    id: str
    title: str
    written: dict = field(repr=False, compare=False)
    about: dict = field(repr=False, compare=False)
    source: Path = field(repr=False)

    @functools.cached_property
    def data(self):
        return unfolded(self.written) if self.suite == "wire" else self.written

    def __str__(self):
        return self.id

    @property
    def unstable(self):
        return bool(self.data.get("unstable"))

    @property
    def note(self):
        """What the recording says besides, such as a build option that it needs."""
        return self.data.get("note", "")


def cases(suite, path=None, pattern=None):
    """The cases of a suite ("ini", "console", "wire", "corpus").

    *path*: a directory (ini, corpus) or file (console, wire) of recordings; default: those shipped beside
    this tool. *pattern*: keep cases whose id contains it, or fits it if it has wildcards.
    """
    path = file_of(suite, path or DEFAULTS[suite])
    found = list(_READERS[suite](path))
    return [case for case in found if pattern is None or _fits(case.id, pattern)]


def file_of(suite, path):
    """The file that holds the recordings of a suite: *path*, or the usual one in that directory."""
    path = Path(path).resolve()
    return path / FILES.get(suite, "expected.json") if path.is_dir() else path


def _fits(name, pattern):
    return fnmatchcase(name, pattern) if re.search(r"[*?\[]", pattern) else pattern in name


@functools.lru_cache
def load(path):
    """All that a file of recordings says."""
    return json.loads(path.read_text())


def _ini(path):
    recording = load(path)
    for name, data in recording["cases"].items():
        yield Case("ini", name, data["desc"], data, recording, path.parent)


def _corpus(path):
    for name, data in load(path).items():
        yield Case("corpus", name, data.get("note", ""), data, {}, path.parent)


def _wire(path):
    recording = load(path)
    for data in recording["scenarios"]:
        yield Case("wire", data["id"], data["title"], data, recording, path)


def _console(path):
    recording = load(path)
    for data in recording["cases"]:
        title = data.get("title") or " ".join(data.get("command", [])) or data.get("code", "").replace("\n", "; ")
        yield Case("console", data["id"], title, data, recording["meta"], path)


_READERS = {"ini": _ini, "console": _console, "wire": _wire, "corpus": _corpus}


# ---- the forms in which wire and console recordings write texts and messages

def unfolded(recorded):
    """Spell out texts written as {"repeat": unit, "count": n, ...}; fields of errors as pairs."""
    if isinstance(recorded, list):
        return [unfolded(item) for item in recorded]
    if isinstance(recorded, dict):
        if "repeat" in recorded:
            return recorded.get("prefix", "") + recorded["repeat"] * recorded["count"] + recorded.get("suffix", "")
        spelled = {key: unfolded(value) for key, value in recorded.items()}
        if recorded.get("type") in WITH_FIELDS:
            spelled["fields"] = [list(pair) for pair in spelled["fields"].items()]
        return spelled
    return recorded


def folded(value):
    """The inverse of *unfolded*."""
    if isinstance(value, list):
        return [folded(item) for item in value]
    if isinstance(value, dict):
        short = {key: folded(item) for key, item in value.items()}
        if value.get("type") in WITH_FIELDS:
            short["fields"] = dict(short["fields"])
        return short
    if isinstance(value, str) and (runs := list(LONG_RUN.finditer(value))):
        run = max(runs, key=lambda found: len(found[0]))
        unit = run[1] or run[2]
        edges = {"prefix": value[:run.start()], "suffix": value[run.end():]}
        return {"repeat": unit, "count": len(run[0]) // len(unit), **{key: text for key, text in edges.items() if text}}
    return value


def unfolded_line(line):
    """A log line with runs such as k{6000} spelled out."""
    return re.sub(r"(.)\{(\d{3,})\}", lambda m: m[1] * int(m[2]), line)


def folded_line(line):
    """The inverse of *unfolded_line*."""
    return re.sub(r"(.)\1{99,}", lambda m: f"{m[1]}{{{len(m[0])}}}", line)


def console_messages(recorded, standard_welcome):
    """Messages of a console recording in the form that protocol.py gives."""
    if recorded == "STANDARD_WELCOME":
        recorded = standard_welcome
    return [_console_message(message) for message in recorded]


def _console_message(recorded):
    m = {key: value for key, value in recorded.items() if key not in ("msg", "dir")}
    kind = ENDS.get(recorded["msg"], recorded["msg"])
    if kind == "RowDescription":
        m = {"columns": [{ours: column[theirs] for ours, theirs in COLUMN.items()} for column in m["fields"]]}
    elif kind == "BackendKeyData":
        m = {"key_hex": "<hex:8 bytes>"}
    elif kind == "AuthenticationMD5Password":
        m = {"salt_hex": m["salt"]}
    elif kind == "NegotiateProtocolVersion":
        version = m["newest_minor"]
        m = {"version": f"{version >> 16}.{version & 0xffff}", "options": m["unrecognized"]}
    return {"type": kind, **m}


def written_console_messages(messages, standard_welcome):
    """The inverse of *console_messages*."""
    written = [_written_console_message(message) for message in messages]
    return "STANDARD_WELCOME" if written == standard_welcome else written


def _written_console_message(message):
    m = {key: value for key, value in message.items() if key != "type"}
    kind = {name: end for end, name in ENDS.items()}.get(message["type"], message["type"])
    if kind == "RowDescription":
        m = {"fields": [{theirs: column[ours] for ours, theirs in COLUMN.items()} for column in m["columns"]]}
    elif kind == "BackendKeyData":
        m = {"pid": "<int>", "key": "<hex8>"}
    elif kind == "AuthenticationMD5Password":
        m = {"salt": "<hex8>"}
    elif kind == "NegotiateProtocolVersion":
        major, minor = map(int, m["version"].split("."))
        m = {"newest_minor": major << 16 | minor, "unrecognized": m["options"]}
    return {"msg": kind, **m}
