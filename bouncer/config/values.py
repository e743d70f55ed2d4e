"""How a setting's text becomes a value, and a value the text of SHOW CONFIG.

The one hard idea: PgBouncer reads numbers with C's strtol, strtoul and strtod and
looks at nothing else, so `0770`, `0x10`, `+5` and `1e3` mean what they mean in C,
and what does not fit is cut to 32 bits. Inside `[databases]` and `[users]` another
reader is used, which takes the leading digits and ignores the rest.
"""

import re
from math import inf
from typing import Final

# The whitespace of the C locale; str.strip() and \s know more than that.
SPACE: Final = " \t\n\v\f\r"

INTEGER: Final = re.compile(r"[ \t-\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
TIME: Final = re.compile(
    r"[ \t-\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)"
    r"([pP][+-]?[0-9]+)?|((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))"
)
SPAN: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)[ \t]*(ms|s|min|h)")
UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
LENIENT: Final = re.compile(r"[ \t-\r]*([+-]?)([0-9]+)")

LONG_MAX: Final = 2**63 - 1
LONG_MIN: Final = -(2**63)
ULONG_MAX: Final = 2**64 - 1
# The smallest number that strtod takes without ERANGE (DBL_MIN).
SMALLEST: Final = 2.2250738585072014e-308
MICROSECONDS: Final = 1_000_000
# The longest time, in seconds: its microseconds still fit into 63 bits.
LONGEST: Final = 9e12


class BadValue(ValueError):
    """The text is not a value of that kind; the text of this says why, or nothing."""


def as_int32(number: int) -> int:
    """Cut *number* to a signed C int, as storing a long in it does."""
    number &= 0xFFFFFFFF
    return number - 0x1_0000_0000 if number & 0x8000_0000 else number


def parse_integer(text: str) -> int:
    """Return the unbounded number that C reads in *text*, base 0."""
    found = INTEGER.fullmatch(text)
    if found is None:
        raise BadValue
    sign, digits = found.groups()
    if digits[:2] in ("0x", "0X"):
        number = int(digits[2:], 16)
    elif len(digits) > 40:
        # Far beyond 64 bits in any base, and int() of many digits is slow.
        number = 10**40
    else:
        number = int(digits, 8 if digits[0] == "0" else 10)
    return -number if sign == "-" else number


def parse_int(text: str) -> int:
    """Read a signed setting; what is too large is clamped like strtol, then cut."""
    return as_int32(min(max(parse_integer(text), LONG_MIN), LONG_MAX))


def parse_uint(text: str) -> int:
    """Read an unsigned setting: -1 wraps to the largest."""
    number = parse_integer(text)
    if abs(number) > ULONG_MAX:
        number = ULONG_MAX
    return number & 0xFFFFFFFF


def parse_time(text: str) -> float:
    """Read seconds, kept in whole microseconds.

    PgBouncer also takes `inf` and `nan`, with meaningless results: we refuse them.
    What is beyond its 64 bits becomes the longest time.
    """
    found = TIME.fullmatch(text)
    if found is None:
        raise BadValue
    sign, hexadecimal, power, decimal = found.groups()
    try:
        if hexadecimal is not None:
            seconds = float.fromhex(f"0x{hexadecimal}{power or ''}")
            empty = not hexadecimal.strip("0.")
        else:
            seconds = float(decimal)
            empty = not re.split("[eE]", decimal)[0].strip("0.")
    except OverflowError as error:
        raise BadValue from error
    if seconds == inf or (seconds < SMALLEST and not empty):
        raise BadValue
    if sign == "-" and seconds:
        raise BadValue
    return min(int(seconds * MICROSECONDS) / MICROSECONDS, LONGEST)


def parse_span(text: str) -> float:
    """Read a time of ours: as `parse_time`, or a number with ms, s, min or h."""
    found = SPAN.fullmatch(text.strip(SPACE))
    if found is None:
        return parse_time(text)
    return min(float(found[1]) * UNITS[found[2]], LONGEST)


def show_time(seconds: float) -> str:
    """Write *seconds* as SHOW CONFIG does."""
    return f"{seconds:g}"


def lenient_int(text: str) -> int:
    """Read the leading digits of *text* as C's atoi does: none are 0, the rest counts
    for nothing."""
    found = LENIENT.match(text)
    if found is None:
        return 0
    sign, digits = found.groups()
    number = int(digits) if len(digits) <= 40 else 10**40
    number = -number if sign == "-" else number
    return as_int32(min(max(number, LONG_MIN), LONG_MAX))
