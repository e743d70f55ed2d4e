"""Every part of `make outside`, by name."""

from tests.outside.driver_parts import DRIVERS
from tests.outside.frame import Part
from tests.outside.regress import regress_15, regress_18

SUITES: dict[str, Part] = {
    "regress-15": Part(regress_15),
    "regress-18": Part(regress_18, in_short=False),
}

PARTS: dict[str, Part] = {**SUITES, **DRIVERS}
