"""The parts that play drivers: their own suites, or real programs."""

from tests.outside.frame import Part

DRIVERS: dict[str, Part] = {}
