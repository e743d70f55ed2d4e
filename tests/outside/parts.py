"""Every part of `make outside`, by name."""

from tests.outside.driver_parts import DRIVERS
from tests.outside.frame import Part
from tests.outside.isolation import isolation
from tests.outside.packages import debian, red_hat
from tests.outside.pipeline import libpq_pipeline
from tests.outside.regress import regress_15, regress_18
from tests.outside.tools import tools
from tests.outside.wheels import wheels

SUITES: dict[str, Part] = {
    "tools": Part(tools),
    "libpq-pipeline": Part(libpq_pipeline),
    "isolation": Part(isolation),
    "regress-15": Part(regress_15),
    "regress-18": Part(regress_18, in_short=False),
    "debian": Part(debian, in_short=False),
    "rpm": Part(red_hat, in_short=False),
    "wheels": Part(wheels),
}

PARTS: dict[str, Part] = {**SUITES, **DRIVERS}
