"""Start Odoo 19 on a Python that is newer than it knows. Run by Odoo's own interpreter.

    python3 start.py [gevent] [Odoo's options]

Debian unpacks Odoo 19.0 beside Python 3.14; Odoo itself stops at 3.13. Two things of it
break there, and are mended here before Odoo starts: the standard library's weak sets
want a `copy()` of its ordered set, and its evaluator of server actions and domains
refuses instructions that 3.14 has new names for. What was tried is pinned: another
version fails by saying so instead of oddly.

The name of this file stands in Odoo's own start of its gevent process.
"""

import opcode
import sys

import odoo.cli
import odoo.release
from odoo.tools import misc, safe_eval

TRIED_ODOO, TRIED_PYTHON = "19.0", ((3, 13), (3, 14))
# Python 3.14 reads, compares and calls by these what 3.13 did by others of the list.
NEW_NAMES = (
    "BINARY_OP_SUBSCR",
    "BUILD_INTERPOLATION",
    "BUILD_TEMPLATE",
    "LOAD_COMMON_CONSTANT",
    "LOAD_FAST_BORROW",
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
    "LOAD_SMALL_INT",
    "LOAD_SPECIAL",
    "NOT_TAKEN",
    "POP_ITER",
)


def only_what_was_tried() -> None:
    """End with a word to the reader where nobody knows whether it works."""
    python = sys.version_info[:2]
    if not odoo.release.version.startswith(TRIED_ODOO) or python not in TRIED_PYTHON:
        sys.exit(
            f"this start script was tried with Odoo {TRIED_ODOO} on Python 3.13 and"
            f" 3.14, not with Odoo {odoo.release.version} on Python"
            f" {python[0]}.{python[1]}: look at what it mends, then at TRIED_*"
        )


def mend() -> None:
    """Teach Odoo the Python that runs it."""
    if not hasattr(misc.OrderedSet, "copy"):
        misc.OrderedSet.copy = lambda self: type(self)(self)
    known = {opcode.opmap[name] for name in NEW_NAMES if name in opcode.opmap}
    for allowed in ("_CONST_OPCODES", "_EXPR_OPCODES", "_SAFE_OPCODES"):
        setattr(safe_eval, allowed, getattr(safe_eval, allowed) | known)


if __name__ == "__main__":
    only_what_was_tried()
    mend()
    odoo.cli.main()
