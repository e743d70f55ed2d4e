"""Case 2c, where PostgreSQL tells nothing: a reset of what the server has anyway.

The client's startup packet has asked for other values than the server's own. Then the
client sets the server's own, and resets: nothing changes at the server, but for its
client everything does. What is said of a reset stands in its text alone.
"""

STARTED = 'DateStyle="SQL, DMY" IntervalStyle="iso_8601" client_encoding="LATIN1"'
OWN = (
    "Q(\"set datestyle = 'ISO, MDY'; set intervalstyle = 'postgres';"
    " set client_encoding = 'UTF8'\") |"
)
SHOWN = (
    "Q(\"select current_setting('DateStyle'), current_setting('IntervalStyle'),"
    " current_setting('client_encoding')\")"
)
LOCAL = "set local datestyle to default"
# Each begins where the client has set the server's own.
WAYS = {
    "RESET": 'Q("reset datestyle")',
    "RESET in odd letters": 'Q("ReSeT DATEstyle ;")',
    "RESET of a quoted name": 'Q("reset \\"DateStyle\\"")',
    "RESET behind comments": 'Q("/* a /* b */ ; */ -- c\\n reset datestyle")',
    "RESET with a comment inside": 'Q("reset /* it */ datestyle")',
    "RESET of two": 'Q("reset datestyle; reset intervalstyle")',
    "SET TO DEFAULT": 'Q("set datestyle to default")',
    "SET = DEFAULT": 'Q("SET DateStyle=DEFAULT")',
    "SET SESSION TO DEFAULT": 'Q("set session datestyle to default")',
    "SET of a quoted name": 'Q("set \\"DateStyle\\" to default")',
    "SET NAMES DEFAULT": 'Q("set names default")',
    "SET NAMES": 'Q("set names")',
    "behind a query": 'Q("select 1; reset datestyle")',
    "before a query": 'Q("reset datestyle; select 1")',
    "then SET": "Q(\"reset datestyle; set datestyle = 'ISO, MDY'\")",
    "then SET to another": "Q(\"reset datestyle; set datestyle = 'German'\")",
    "behind SET": "Q(\"set datestyle = 'German'; reset datestyle\")",
    "then an error": 'Q("reset datestyle; select 1/0")',
    "an error, then it": 'Q("select 1/0; reset datestyle")',
    "in a string": "Q(\"select 'x; reset datestyle'\")",
    "rolled back at once": 'Q("begin; reset datestyle; rollback")',
    "committed at once": 'Q("begin; reset datestyle; commit")',
    "before a block that is rolled back": (
        'Q("reset datestyle; begin; select 1; rollback")'
    ),
    "before a block that is rolled back, in a unit": (
        'P("","reset datestyle") B E P("","begin") B E P("","rollback") B E S'
    ),
    "committed, then a block that is rolled back": (
        'Q("begin; reset datestyle; commit; reset intervalstyle; rollback")'
    ),
    "behind a rollback": 'Q("begin; reset intervalstyle; rollback; reset datestyle")',
    "rolled back": f'Q("begin") | Q("reset datestyle") | {SHOWN} | Q("rollback")',
    "committed": f'Q("begin") | Q("reset datestyle") | {SHOWN} | Q("commit")',
    "in a block that fails": (
        f'Q("begin") Q("reset datestyle") {SHOWN} Q("selec") Q("rollback")'
    ),
    "in a block that has failed": (
        'Q("begin") Q("selec") Q("reset datestyle") Q("rollback")'
    ),
    "rolled back to a savepoint": (
        f'Q("begin; savepoint a") Q("reset datestyle") {SHOWN} Q("rollback to a")'
        f' {SHOWN} Q("commit")'
    ),
    "rolled back to a savepoint at once": (
        f'Q("begin; savepoint a; reset datestyle; rollback to a") {SHOWN} Q("commit")'
    ),
    "SET LOCAL": f'Q("begin") Q("{LOCAL}") {SHOWN} Q("commit")',
    "SET LOCAL rolled back": f'Q("begin") Q("{LOCAL}") {SHOWN} Q("rollback")',
    "SET LOCAL outside": f'Q("{LOCAL}")',
    "SET LOCAL at once": f'Q("begin; {LOCAL}; commit")',
    "extended": 'P("","reset datestyle") B E S',
    "SET, extended": 'P("","set datestyle to default") B E S',
    "parsed before": 'P("","reset datestyle") S | B E S',
    "parsed, and not run": 'P("","reset datestyle") B S',
    "by a named statement": f'P("r","reset datestyle") S | {SHOWN} B("","r") E S',
    "by a named statement, twice": (
        f'P("r","reset datestyle") S | B("","r") E S | {SHOWN} {OWN} B("","r") E S'
    ),
    "by a portal of an earlier unit": (
        f'Q("begin") P("","reset datestyle") B("p") S | E("p") S | {SHOWN} Q("commit")'
    ),
    "skipped": 'P("","selec") P("","reset datestyle") B E S',
    "in a unit that fails": 'P("","reset datestyle") B E P("","selec") S',
    "in a unit, then SET": (
        'P("","reset datestyle") B E'
        ' P("","set datestyle to \'ISO, MDY\'") B E S'
    ),
    "in a unit that rolls back": (
        'P("","begin") B E P("","reset datestyle") B E P("","rollback") B E S'
    ),
    "two in one send": 'Q("reset datestyle") Q("reset intervalstyle")',
    "behind SET in one send": (
        "Q(\"set datestyle = 'ISO, MDY'\") Q(\"reset datestyle\")"
    ),
    "SET behind it in one send": (
        "Q(\"reset datestyle\") Q(\"set datestyle = 'ISO, MDY'\")"
    ),
    "set_config to null": (
        "Q(\"select 'was reset to', set_config('datestyle', null, false)\")"
    ),
    "set_config of a block": (
        "Q(\"begin\") Q(\"select 'was reset to', set_config('datestyle', null, true)\")"
        f' {SHOWN} Q("commit")'
    ),
}  # fmt: skip
# In which order several are told is nobody's promise.
ONE_OF_ALL = {
    "RESET ALL": 'Q("reset all")',
    "RESET ALL in a unit": 'P("","reset all") B E S',
    "DISCARD ALL": 'Q("discard all")',
    "DISCARD ALL in a unit": 'P("","discard all") B E S',
    "DISCARD ALL, then SET in a unit": (
        'P("","discard all") B E P("","set datestyle to \'ISO, MDY\'") B E S'
    ),
}  # fmt: skip
# It has set something else: PostgreSQL tells of the reset, which lasts for a block.
TOLD = {
    "SET LOCAL": f'Q("begin") Q("{LOCAL}") {SHOWN} Q("commit")',
    "SET LOCAL rolled back": f'Q("begin") Q("{LOCAL}") {SHOWN} Q("rollback")',
    "then SET to the server's own": (
        "Q(\"reset datestyle; set datestyle = 'ISO, MDY'\")"
    ),
    "SET to the server's own, by ROLLBACK": (
        "Q(\"set datestyle = 'ISO, MDY'\") | Q(\"begin; set datestyle = 'German'\")"
        ' | Q("rollback; reset intervalstyle")'
    ),
    "in a DO": 'Q("do $$begin reset datestyle; end$$")',
}  # fmt: skip
# What we set again behind a reset, within the next transaction, ends with that.
UNDONE = {
    "by ROLLBACK": 'Q("reset datestyle") Q("begin") Q("select 1") | Q("rollback")',
    "by ROLLBACK behind AND CHAIN": (
        'Q("begin") | Q("reset datestyle; commit and chain") | Q("rollback")'
    ),
    "by ROLLBACK of a block of one text": (
        'Q("begin; reset datestyle; commit; begin") | Q("rollback")'
    ),
    "by ROLLBACK behind a unit without Sync": (
        'P("","select 1") Q("reset datestyle") Q("begin") | S | Q("rollback")'
    ),
    "by ROLLBACK in one send": (
        'Q("begin; reset datestyle; commit; begin") |'
        ' Q("rollback") Q("begin") Q("select 1") Q("rollback")'
    ),
    "by ROLLBACK TO": (
        'Q("begin; reset datestyle; commit; begin; savepoint a") |'
        f' Q("set datestyle = \'German\'") | Q("rollback to a") | {SHOWN} | Q("commit")'
    ),
    "by an error": (
        'Q("begin; reset datestyle; commit; begin") | Q("selec") | Q("rollback")'
    ),
    "by an error and ROLLBACK TO": (
        'Q("begin; reset datestyle; commit; begin; savepoint a") |'
        f' Q("selec") | Q("rollback to a") | {SHOWN} | Q("rollback")'
    ),
    "by ROLLBACK behind SET": (
        'Q("begin; reset datestyle; commit; begin") |'
        " Q(\"set datestyle = 'German'\") | Q(\"rollback\")"
    ),
    "by ROLLBACK behind SET to the server's own": (
        'Q("begin; reset datestyle; commit; begin") |'
        " Q(\"set datestyle = 'ISO, MDY'\") | Q(\"rollback\")"
    ),
    "by nothing, it is committed": (
        'Q("begin; reset datestyle; commit; begin") | Q("commit")'
    ),
    "by nothing, the client sets the server's own": (
        'Q("begin; reset datestyle; commit; begin") |'
        " Q(\"set datestyle = 'ISO, MDY'\") | Q(\"commit\")"
    ),
    "behind DISCARD ALL": 'Q("discard all") P("","begin") B E S | Q("rollback")',
}  # fmt: skip
RESETS = {
    f"2c silent {what}": f"{STARTED} {OWN} {said} | {SHOWN} | {SHOWN}"
    for what, said in WAYS.items()
} | {
    f"2c silent {what}": (
        f"DateStyle=\"SQL, DMY\" Q(\"set datestyle = 'ISO, MDY'\") | {said} | {SHOWN}"
    )
    for what, said in ONE_OF_ALL.items()
} | {
    f"2c told {what}": (
        f"{STARTED} Q(\"set datestyle = 'German'\") | {said} | {SHOWN} | {SHOWN}"
    )
    for what, said in TOLD.items()
} | {
    f"2c undone {what}": f"{STARTED} {said} | {SHOWN} | {SHOWN}"
    for what, said in UNDONE.items()
}  # fmt: skip
