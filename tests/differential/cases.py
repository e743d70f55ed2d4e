"""Conversations from the field that went wrong, written down by hand.

In the notation of `speech`, without the settings: each is played in every setting in
which what it does is promised. A name begins with the number of its case.
"""

from dataclasses import dataclass

from tests.differential.resets import RESETS
from tests.differential.speech import Conversation, read

SETTINGS = [(mode, n) for mode in ("session", "transaction") for n in (200, 0)]


@dataclass(frozen=True)
class Case:
    """One conversation, and where its names of statements are followed."""

    name: str
    said: str

    @property
    def names_statements(self) -> bool:
        """Whether it uses a named statement beyond its transaction."""
        return any(
            word.code in "PBDC" and named(word.code, word.arguments)
            for speaker in self.conversation("session", 0).speakers
            for word in speaker.words
        )

    def settings(self) -> list[tuple[str, int]]:
        """pool_mode and max_prepared_statements that it is played in."""
        lacking = {("transaction", 0)} if self.names_statements else set()
        return [setting for setting in SETTINGS if setting not in lacking]

    def conversation(self, mode: str, prepared: int) -> Conversation:
        """It as said in one setting. In session pooling each client has a server."""
        found = read(f"{mode}/1/{prepared} : {self.said}")
        if mode == "session":
            found.size = len(found.speakers)
        return found


def named(code: str, arguments: tuple[object, ...]) -> bool:
    """Whether a message names a statement."""
    if code == "P":
        return bool(arguments[:1] and arguments[0])
    if code == "B":
        return bool(arguments[1:] and arguments[1])
    return bool(arguments[1:] and arguments[0] == "S" and arguments[1])


# How far an error reaches in a pipeline. `{}` is a unit's failing start.
FAILING_STARTS = {
    "in parse": 'P("","selec 1") B E',
    "in bind": 'P("","select $1::int") B("","","x") E',
    "with too many values": 'P("","select 1") B("","","x") E',
    "in execute": 'P("","select 1 / generate_series(0, 0)") B E',
    "in describe": 'P("","select 1") B D("P","nosuch") E',
    "in a named parse": 'P("s1","selec 1") B("","s1") E',
    "in copy": 'P("","copy no_such_table from stdin") B E d("1\\tx\\n") c',
    "in copied data": 'P("","copy t1 from stdin") B E d("x\\ty\\n") c',
    "in copied data, given up": 'P("","copy t1 from stdin") B E d("x\\ty\\n") f',
    "by CopyFail": 'P("","copy t1 from stdin") B E d("1\\ty\\n") f',
}
BEHIND_FAILURES = {
    f"1a error {what}, {then}": f"{start} {said}"
    for what, start in FAILING_STARTS.items()
    for then, said in {
        "then Query": 'Q("select 2") S',
        "then FunctionCall": 'F(1397,"-5") S',
        "then two Query": 'Q("select 2") Q("select 3") S',
        "then Query before a late Sync": 'Q("select 2") | S',
        "then Flush and Query": 'H Q("select 2") S',
    }.items()
}
REACHES = {
    **BEHIND_FAILURES,
    "1a no error, then Query": 'P("","select 2") B E Q("select 1") S',
    "1a no error, then FunctionCall": 'P("","select 2") B E F(1397,"-5") S',
    "1a failing Query behind a unit": 'P("","select 2") B E Q("selec") S Q("select 3")',
    "1a in a block": 'Q("begin") P("","selec") B E Q("select 2") S Q("rollback")',
    "1a behind good work": 'P("","select 1") B E P("","selec") B E Q("select 2") S',
    "1a then more units": 'P("","selec") Q("select 2") S P("","select 3") B E S Q("select 4")',
    "1b known text behind it": (
        'P("s1","select 4") S | P("","selec") P("s3","select 4") Q("select 2") S'
        ' | P("s3","select 4") B("","s3") E S'
    ),
    "1b known text behind it, in one send": (
        'P("s1","select 4") S P("","selec") P("s3","select 4") Q("select 2") S'
        ' P("s3","select 4") B("","s3") E S'
    ),
    "1b known text behind it, FunctionCall": (
        'P("s1","select 4") S | P("","selec") P("s3","select 4") F(1397,"-5") S'
        ' | P("s3","select 4") B("","s3") E S'
    ),
    "1b Describe of what was skipped": (
        'P("s1","select 4") S | P("","selec") P("s3","select 4") S | D("S","s3") S'
    ),
    "1d Close behind a skipped Query": (
        'P("","selec") Q("select 2") S C("S","no") S | Q("select 3")'
    ),
    "1d Close behind a skipped FunctionCall": (
        'P("","selec") F(1397,"-5") S C("S","no") S | Q("select 3")'
    ),
    "1d stray ParseComplete": (
        'P("k","select 4") S | P("","selec") Q("select 2") S P("l","select 4") S'
        ' | Q("select 3") | B("","l") E S'
    ),
    "1d for another client": (
        'P("","selec") Q("select 2") S C("S","no") S > Q("select 3")'
    ),
    "1e known text in a failed block": (
        'P("j","select 4") B("","j") E S > Q("begin") P("","select 1/0") B E S'
        ' P("k","select 4") S | Q("rollback")'
    ),
    "1e own known text in a failed block": (
        'P("j","select 4") S | Q("begin") P("","select 1/0") B E S P("k","select 4") S'
        ' | Q("rollback") | P("k","select 4") B("","k") E S'
    ),
    "1e Describe without rows in a failed block": (
        'P("u","set timezone = \'UTC\'") S | Q("begin") Q("selec") D("S","u") S Q("rollback")'
    ),
    "1e on a server that lacks it, with types": (
        'P("u","insert into t1 values ($1, $2)") P("v","select \'$2\', $1::int") S | @ @'
        ' Q("begin") Q("selec") D("S","u") B("","u","1","2","3") E S B("","v") E S'
        ' D("S","v") S B("","v","1") E S Q("rollback") | B("","u","1","x") E S'
        ' & @ Q("deallocate all") | @ Q("select 1")'
    ),
    "1e wrong count in a failed block": (
        'P("u","select $1::int") S | Q("begin") Q("selec") B("","u") E S Q("rollback")'
    ),
    "1e Close of what was skipped": (
        'E P("s","select 4") S D("S","no") C("S","s") S B("","s") E S P("s","select 5") S'
        ' | B("","s") E S'
    ),
    "1e taken name in a COPY": (
        'P("s","select 4") S | Q("copy t1 from stdin") | P("s","select 5") S'
    ),
    "1e on a server that lacks it": (
        'P("u","set timezone = \'UTC\'") P("v","select $1::int") S | @ @ Q("begin")'
        ' Q("selec") D("S","u") S B("","v") E S Q("rollback")'
        ' & @ Q("deallocate all") | @ Q("select 1")'
    ),
}  # fmt: skip
NAMES = {
    "1c taken": 'P("s","select 4") S | P("s","select 4") S | B("","s") E S',
    "1c taken, other text": 'P("s","select 4") S | P("s","select 5") S | B("","s") E S',
    "1c taken, in one send": 'P("s","select 4") S P("s","select 4") S',
    "1c taken in the same unit": 'P("s","select 4") P("s","select 5") S | B("","s") E S',
    "1c taken behind good work": (
        'P("s","select 4") S | P("","insert into t1 values (1)") B E P("s","select 4") S'
    ),
    "1c taken, then Query": 'P("s","select 4") S | P("s","select 4") Q("select 2") S',
    "1c taken in a block": (
        'P("s","select 4") S | Q("begin") P("s","select 4") S | Q("select 1") Q("rollback")'
        ' | B("","s") E S'
    ),
    "1c taken in a failed block": (
        'P("s","select 4") S | Q("begin") Q("selec") P("s","select 4") S Q("rollback")'
    ),
    "1c taken, syntax error": 'P("s","select 4") S | P("s","selec") S | B("","s") E S',
    "1c Bind of an unknown name": 'B("","nosuch") E S | Q("select 1")',
    "1c Describe of an unknown name": 'D("S","nosuch") S | Q("select 1")',
    "1c Bind of an unknown name behind good work": (
        'P("","insert into t1 values (1)") B E B("","nosuch") E S | Q("select a from t1")'
    ),
    "1c Bind of an unknown name, then Query": 'B("","nosuch") E Q("select 2") S',
    "1c Bind of an unknown name in a block": (
        'Q("begin") | Q("insert into t1 values (1)") B("","nosuch") E S | Q("commit")'
    ),
    "1c Bind of an unknown name in a failed block": (
        'Q("begin") Q("selec") B("","nosuch") E S Q("rollback")'
    ),
    "1c unknown behind a savepoint": (
        'Q("begin") Q("savepoint a") D("S","nosuch") S Q("rollback to a")'
        ' Q("insert into t1 values (1)") Q("commit")'
    ),
    "1c unknown behind DISCARD ALL": (
        'P("s","select 4") S | Q("discard all") | B("","s") E S | P("s","select 5") S'
        ' | B("","s") E S'
    ),
    "1c unknown behind DEALLOCATE ALL": (
        'P("s","select 4") S | Q("deallocate all") | D("S","s") S | P("s","select 4") S'
    ),
    "1c unknown behind DEALLOCATE ALL, in one send": (
        'P("s","select 4") S Q("deallocate all") B("","s") E S P("s","select 4") S'
    ),
    "1c unknown behind Close": 'P("s","select 4") S | C("S","s") B("","s") E S | Q("select 1")',
    "1c unknown behind Close, by another": (
        'P("s","select 4") S > P("s","select 4") S | C("S","s") S | B("","s") E S'
    ),
    "1c taken anew behind Close": 'P("s","select 4") C("S","s") P("s","select 5") B("","s") E S',
    "1c Parse refused, then used": 'P("s","selec") S | B("","s") E S | P("s","select 4") S',
    "1c Parse skipped, then used": 'P("","selec") P("s","select 4") S | B("","s") E S',
    "1c before any other word": 'D("S","s") S B("","s") E S P("s","select 4") B("","s") E S',
}  # fmt: skip
UNNAMED = {
    "2a behind its own Sync": 'P("","select $1::int") D("S","") S | B("","","5") E S',
    "2a twice": 'P("","select $1::int") S | B("","","5") E S | B("","","6") D E S',
    "2a without waiting": 'P("","select $1::int") S B("","","5") E S',
    "2a Describe": 'P("","select $1::int") S | D("S","") S | D("S","") S',
    "2a in a block": 'Q("begin") P("","select $1::int") S | B("","","5") E S | Q("commit")',
    "2a behind a block": 'P("","begin") B E S | P("","commit") S | B E S | B E S',
    "2a dropped by Query": 'P("","select 5") S | Q("select 1") | B E S',
    "2a dropped by Query, in one send": 'P("","select 5") S Q("select 1") B E S',
    "2a kept by FunctionCall": 'P("","select 5") S | F(1397,"-5") | B E S',
    "2a dropped by a refused Parse": 'P("","select 5") S | P("","selec") S | B E S',
    "2a kept when a Parse is skipped": (
        'P("","select 5") S | D("P","nosuch") P("","select 6") S | B E S'
    ),
    "2a dropped by Close": 'P("","select 5") S | C("S","") S | B E S',
    "2a kept by a named Parse": 'P("","select 5") S | P("s","select 6") S | B E S',
    "2a behind DISCARD ALL": 'P("","select 5") S | Q("discard all") | B E S',
    "2a behind DEALLOCATE ALL": 'P("","select 5") S | P("","deallocate all") B E S | B E S',
    "2a refused for want of one": "B E S | D(\"S\",\"\") S",
    "2a three clients of one server": (
        'P("","select 1") S | @ B E S | @ B E S & P("","select 2") S | @ B E S | @ B E S'
        ' & P("","select 3, $1::int") S | @ B("","","5") E S | @ D("S","") B("","","6") E S'
    ),
    "2a one client with Query between": (
        'P("","select 1") S | @ @ B E S & @ Q("select 2") | @ Q("select 3")'
    ),
    "2a none of one's own": 'P("","select 1") S | @ @ Q("select 2") & @ B E S | @ D("S","") S',
}  # fmt: skip
INSERT = "Q(\"insert into t1 values (1, 'x')\")"
EXTENDED = 'P("","insert into t1 values ($1, $2) returning a") B("","","1","x") D E S'
GOODBYES = {
    f"2b {goodbye} behind {what}": f"{said} {word}"
    for goodbye, word in {"Terminate": "X", "half-close": "half"}.items()
    for what, said in {
        "a Query": INSERT,
        "a unit": EXTENDED,
        "two Query": f'{INSERT} Q("select 2")',
        "a failing Query": 'Q("selec")',
        "a unit that fails": 'P("","selec") B E S',
        "a FunctionCall": 'F(1397,"-5")',
        "many rows": 'Q("select repeat(\'r\', 500) from generate_series(1, 3000)")',
        "the whole of a COPY": 'Q("copy t1 from stdin") d("1\\tx\\n") c',
        "COPY out": 'Q("copy (select generate_series(1, 1000)) to stdout")',
        "a transaction": f'Q("begin") {INSERT} Q("commit")',
        "a transaction that is left": f'Q("begin") {INSERT}',
        "a transaction that goes on": f'Q("begin") | {INSERT} Q("commit")',
        "DISCARD ALL": 'Q("discard all")',
        "what has been answered": f"{INSERT} |",
        "nothing": "",
    }.items()
} | {
    f"2b {goodbye} while it waits for a server": (
        'Q("begin") | @ Q("select pg_sleep(0.2)") Q("commit")'
        f' & @ Q("insert into t2 values (1)") {word}'
    )
    for goodbye, word in {"Terminate": "X", "half-close": "half"}.items()
}  # fmt: skip
STARTED = (
    'application_name="worker" TimeZone="Asia/Tokyo" DateStyle="SQL, DMY"'
    ' IntervalStyle="iso_8601" client_encoding="LATIN1"'
)
SHOWN = (
    "Q(\"select current_setting('application_name'), current_setting('TimeZone'),"
    " current_setting('DateStyle'), current_setting('IntervalStyle'),"
    " current_setting('client_encoding')\")"
)
CHANGED = "Q(\"set application_name = 'x'; set timezone = 'UTC'; set datestyle = 'German'\") |"
STARTUPS = {
    f"2c {what}{then}": f"{STARTED} {before} {said} | {SHOWN} | {SHOWN}"
    for then, before in {"": "", " behind SET": CHANGED}.items()
    for what, said in {
        "RESET ALL": 'Q("reset all")',
        "DISCARD ALL": 'Q("discard all")',
        "DISCARD ALL in a unit": 'P("","discard all") B E S',
        "RESET of each": 'Q("reset timezone; reset application_name; reset datestyle")',
        "RESET, extended": 'P("","reset timezone") B E S',
        "SET TIME ZONE LOCAL": 'Q("set time zone local")',
        "SET TO DEFAULT": 'Q("set timezone to default")',
        "set_config to null": (
            "Q(\"select 'was reset to', set_config('timezone', null, false)\")"
        ),
        "RESET rolled back": 'Q("begin; reset all") Q("rollback")',
        "RESET committed": 'Q("begin; reset all; commit")',
        "RESET and RESET again": 'Q("reset all") Q("reset all")',
        "RESET, then SET": "Q(\"reset all\") Q(\"set timezone = 'Asia/Kolkata'\")",
    }.items()
} | {
    "2c RESET ALL in one send with more": f'{STARTED} Q("reset all") {SHOWN} Q("select 1")',
    "2c DISCARD ALL at each release": (
        f'{STARTED} Q("discard all") | {SHOWN} | Q("discard all") | {SHOWN}'
        f' > TimeZone="UTC" {SHOWN} | Q("discard all") | {SHOWN}'
    ),
    "2c from options": (
        f'options="-c TimeZone=Asia/Tokyo" Q("reset all") | {SHOWN} | Q("discard all") | {SHOWN}'
    ),
}  # fmt: skip
FORGETS = {
    "DISCARD ALL": 'Q("DISCARD ALL")',
    "DEALLOCATE ALL": 'Q("deallocate all")',
    "DEALLOCATE PREPARE ALL": 'Q("Deallocate Prepare All")',
    "a comment in front": 'Q("/* a /* nested */ note */ -- and\\n deallocate all")',
    "a transaction in one Query": 'Q("begin; deallocate all; commit")',
    "DEALLOCATE ALL in a unit": 'P("","deallocate all") B E S',
    "DISCARD ALL in a unit": 'P("","discard all") B E S',
}
PIPELINES = {
    f"2d {what}, {then}": said.replace("{}", forgets)
    for what, forgets in FORGETS.items()
    for then, said in {
        "then what another has prepared": (
            'P("k","select 4") B("","k") E S > {} P("n1","select 4") D("S","n1") S'
        ),
        "then the same name": 'P("k","select 5") S | {} P("k","select 5") B("","k") E S',
        "then the same name, other text": (
            'P("k","select 5") S | {} P("k","select 6") B("","k") E S | B("","k") E S'
        ),
        "then a name that is gone": 'P("k","select 5") S | {} B("","k") E S Q("select 1")',
        "all in one send": 'P("k","select 5") S {} P("k","select 5") B("","k") E S',
        "twice": 'P("k","select 5") S | {} P("k","select 5") S {} P("k","select 5") S',
    }.items()
} | {
    "2d in a block that is rolled back": (
        'P("k","select 5") S | Q("begin") Q("deallocate all") Q("rollback")'
        ' P("k","select 5") B("","k") E S'
    ),
    "2d in a block that has failed": (
        'P("k","select 5") S | Q("begin") Q("selec") Q("deallocate all") Q("rollback")'
        ' B("","k") E S'
    ),
    "2d DISCARD ALL refused": (
        'P("k","select 5") S | Q("begin") Q("discard all") Q("rollback") B("","k") E S'
    ),
    "1c DEALLOCATE of a name": (
        'P("s","select 4") S | Q("deallocate s") | P("s","select 5") S | B("","s") E S'
    ),
    "1c DEALLOCATE of a name, in one send": (
        'P("s","select 4") S Q("select 1") Q("deallocate prepare s;") D("S","s") S'
    ),
    "1c DEALLOCATE of a name in a transaction": (
        'P("s","select 4") S | Q("begin") | Q("DEALLOCATE s") | B("","s") E S | Q("commit")'
    ),
    "1c DEALLOCATE of a name in a failed transaction": (
        'P("s","select 4") S | Q("begin") Q("selec") | Q("deallocate s") | Q("rollback")'
        ' | B("","s") E S'
    ),
    "1c DEALLOCATE of a name in a unit": (
        'P("s","select 4") Q("deallocate s") P("","select 5") B Q("select 6") S'
    ),
    "1c DEALLOCATE of a name behind a COPY": (
        'P("s","select 4") Q("copy t1 (a) from stdin") c Q("deallocate s")'
    ),
    "1c DEALLOCATE of a name, extended": (
        'P("s","select 4") S | P("","deallocate s") B E S | B("","s") E S'
    ),
    "1c DEALLOCATE of a name, extended by a name": (
        'P("s","select 4") P("d","deallocate s") S | B("","d") E S'
        ' | P("s","select 5") B("","s") E S'
    ),
    "1c DEALLOCATE of a name, extended and made anew": (
        'P("s","select 4") S P("","deallocate s") B E P("s","select 5") B("","s") E S'
    ),
    "1c DEALLOCATE of a name before another statement": (
        'P("s","select 4") S | Q("deallocate s; select 1") | B("","s") E S'
    ),
    "1c DEALLOCATE of a name behind another statement": (
        'P("s","select 4") S | Q("select 1; deallocate s; select 1/0") | B("","s") E S'
    ),
    "1c DEALLOCATE of a name in a transaction of one text": (
        'P("s","select 4") S | Q("begin; deallocate s; rollback") | B("","s") E S'
    ),
    "1c DEALLOCATE of a name behind a failed transaction": (
        'P("s","select 4") S | Q("begin") Q("selec") Q("select 1; deallocate s")'
        ' Q("rollback; deallocate s") | B("","s") E S'
    ),
    "1c DEALLOCATE of a name within comments": (
        'P("s","select 4") S | Q("/* a */ deallocate -- b\\n s;;") | B("","s") E S'
    ),
    "1c DEALLOCATE of a name in escapes": (
        'P("é","select 4") S | Q("deallocate U&\\"\\\\00e9\\"") | B("","é") E S'
    ),
    "1c DEALLOCATE of several names": (
        'P("s","select 4") P("t","select 5") S | Q("deallocate nobody; deallocate s")'
        ' | Q("deallocate t; deallocate s; deallocate t") | B("","t") E S'
    ),
    "1c name of a statement in an error, made twice": (
        'P("s2","values (1)") B("c1","s2","3") P("s1","values (1)") S'
    ),
    "1c name of a statement in an error, its Close skipped": (
        'P("s2","select $1::int + 1") S B("","") C("S","s2") S B("c1","s2") S'
    ),
    "1c name of a statement in an error, the first of two": (
        'P("s2","values (1)") P("s1","values (1)") S | B("c1","s2","3") S'
        ' | B("","s2","3") C("S","s2") S'
    ),
    "2d DEALLOCATE in a skipped message": (
        'P("k","select 5") S | P("","selec") P("","deallocate all") B E S B("","k") E S'
    ),
    "2d as Npgsql does, unprepared": " & ".join(
        f'Q("DISCARD ALL") P("","select $1::int") B("","","{n}") D("P","") E S'
        f' | @ P("","select $1::int") B("","","{n}") D("P","") E'
        f' P("","select $1::text") B("","","{n}") D("P","") E S'
        for n in (1, 2, 3)
    ),
    "2d as Npgsql does, a batch that fails": " & ".join(
        f'Q("DISCARD ALL") P("","select $1::int") B("","","{n}") D("P","") E'
        f' P("","select 1 / $1::int") B("","","0") D("P","") E'
        f' P("","select $1::text") B("","","{n}") D("P","") E S'
        f' | @ Q("DISCARD ALL") P("","select $1::int") B("","","{n}") D("P","") E S'
        for n in (1, 2, 3)
    ),
    # What its pool sends for a connection that has prepared statements to keep.
    "2d as Npgsql does, keeping statements": " & ".join(
        f'P("_p{n}","select $1::int") D("S","_p{n}") S | @ B("","_p{n}","{n}") E S'
        ' | Q("SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;'
        'DISCARD SEQUENCES;DISCARD TEMP")'
        f' B("","_p{n}","{n}") D("P","") E S | @ B("","_p{n}","{n}") E B("","_p{n}","8") E S'
        for n in (1, 2, 3)
    ),
    "2d as Npgsql does": " & ".join(
        f'Q("DISCARD ALL") P("_p{n}","select $1::int") D("S","_p{n}") S'
        f' | @ B("","_p{n}","{n}") E S | Q("DISCARD ALL") P("_p1","select $1::int") S'
        f' | @ B("","_p1","{n}") E S'
        for n in (1, 2, 3)
    ),
}  # fmt: skip
FOUND = {
    "differ another's unnamed statement behind a skipped Parse": (
        'P("","select 4") S > E("nosuch") P("","select 5") S B E S'
    ),
    "differ unnamed statement behind FunctionCall, not synced": (
        'P("","select 5") F(1397,"-5") | B E S'
    ),
    "differ unnamed statement behind a Parse and FunctionCall": (
        'P("","select 6") F(1397,"-5") P("","select 5") S | B E S'
    ),
    "differ Close and Parse skipped behind a failed COPY": (
        'Q("copy t1 from stdin (format csv)") d("1\\n2\\n1\\n1\\t2\\t3\\n") d("21,csv\\n") c S'
        ' P("s3","set timezone = \'Asia/Tokyo\'") D("S","s1") C("S","s3")'
        ' P("s3","select generate_series(1, $1::int)") S B("","s3","5") D("P","") S'
    ),
    "differ Flush behind what waits for DEALLOCATE": (
        'P("s","select 4") Q("deallocate nobody") D("S","s") H | S'
    ),
    "differ Flush behind what waits for Query, chopped": (
        '%121 P("s2","select 4") Q("set standard_conforming_strings = on")'
        ' | Q("select set_config(\'application_name\', \'by 3\', false)") B("","s2") H'
    ),
    "differ Bind behind a failing DEALLOCATE, Parse not synced": (
        'P("s","select 4") Q("deallocate nobody") B("","s") S'
    ),
    "differ Flush behind a RESET in a session": (
        'application_name="started" P("s2","select $1") P("","reset all") B E S H'
        ' | B("","s2","5") E S | Q("prepare own as select 1") H | Q("select 2")'
    ),
    "differ Close again behind one that was skipped": (
        'P("s2","select 1") E C("S","s2") S C("S","s2") P("s2","select 2") S B("","s2") E S'
    ),
    "differ Close of a name made behind one that was skipped": (
        'P("s2","select 1") S | E C("S","s2") P("s2","select 2") S C("S","s2")'
        ' P("s2","select 3") S B("","s2") E S'
    ),
    "differ Close and Parse skipped": (
        'P("s","select 4") E("c2") C("S","s") P("s","select 5") S B("","s") E S'
    ),
    "differ Close and Parse skipped, then waiting": (
        'P("s","select 4") E("c2") C("S","s") P("s","select 5") S | B("","s") E S'
    ),
    "differ Close and Parse skipped in a block": (
        'P("s","select 4") S Q("begin") Q("selec") C("S","s") P("s","select 5") S'
        ' Q("rollback") B("","s") E S'
    ),
    "differ Flush alone": 'Q("select 1") | H',
    "differ Flush before anything else": "H",
    "differ Flush in a COPY that has failed": (
        'Q("copy t1 from stdin") | d("x\\ty\\n") | H d("1\\ty\\n") c |'
    ),
    "differ Flush behind Sync": 'P("","select 1") B E S H',
}
MIXED = {
    "2e no Sync before the Query": 'P("","select 2") B E Q("select 1") S',
    "2e no Sync before the Query, inserting": (
        'P("","insert into t1 values (1)") B E Q("insert into t1 values (2)") S'
    ),
    "2e no Sync before the FunctionCall": 'P("","select 2") B E F(1397,"-5") S',
    "2e own SET behind it": (
        'P("","select 2") B E Q("select 1") S | Q("set timezone = \'Asia/Tokyo\'")'
        ' > TimeZone="America/Lima" Q("show timezone")'
    ),
}
ALL = [
    Case(name, said)
    for table in (
        REACHES,
        NAMES,
        UNNAMED,
        GOODBYES,
        STARTUPS,
        RESETS,
        PIPELINES,
        FOUND,
        MIXED,
    )
    for name, said in table.items()
]
