"""Every part of `make outside`, by name."""

from tests.outside.driver_parts import DRIVERS
from tests.outside.frame import Part

SUITES: dict[str, Part] = {}

PARTS: dict[str, Part] = {**SUITES, **DRIVERS}
