"""The parts that play drivers: their own suites, or real programs."""

from tests.outside.driver_java import on_console
from tests.outside.driver_programs import parts
from tests.outside.driver_suites import PARTS as SUITES
from tests.outside.frame import Part

IN_SHORT = ("asyncpg", "sqlalchemy-asyncpg")
DRIVERS: dict[str, Part] = {
    **{name: Part(run, in_short=name in IN_SHORT) for name, run in SUITES.items()},
    "console-jdbc": Part(on_console, in_short=False),
    **{name: Part(run, in_short=False) for name, run in parts().items()},
}
