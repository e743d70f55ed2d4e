"""Numbers as C reads them."""

import pytest

from bouncer.config import values
from bouncer.config.values import BadValue


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("0x10", 16),
        ("0X1f", 31),
        ("0770", 504),
        (" 7", 7),
        ("4294967297", 1),
        ("2147483648", -2147483648),
        ("9" * 30, -1),
        ("-" + "9" * 30, 0),
        ("9" * 5000, -1),
        ("0x" + "f" * 5000, -1),
    ],
)
def test_int_is_read_like_strtol(text, number):
    assert values.parse_int(text) == number


@pytest.mark.parametrize(
    "text", ["", "08", "1.0", "1e3", "yes", "0x", "1 ", "1_0", "٣"]
)
def test_int_refuses(text):
    for parse in (values.parse_int, values.parse_uint):
        with pytest.raises(BadValue):
            parse(text)


def test_uint_wraps():
    assert values.parse_uint("-1") == 4294967295
    assert values.parse_uint("4294967297") == 1
    assert values.parse_uint("9" * 30) == 4294967295


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("0x10", 16.0),
        ("0x1p4", 16.0),
        ("1e-7", 0.0),
        ("0.0000019", 0.000001),
    ],
)
def test_time_is_read_like_strtod(text, seconds):
    assert values.parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", ".", "-1", "10min", "1 s", "inf", "nan", "1e999", "1e-999", "0x1p99999", "e5"],
)
def test_time_refuses(text):
    with pytest.raises(BadValue):
        values.parse_time(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12x", 12),
        ("1.9", 1),
        ("", 0),
        ("x", 0),
        ("010", 10),
        ("0x10", 0),
        ("-3", -3),
        ("4294967297", 1),
        ("9" * 5000, -1),
    ],
)
def test_lenient_int_takes_the_leading_digits(text, number):
    assert values.lenient_int(text) == number
