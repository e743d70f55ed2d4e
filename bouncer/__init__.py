"""pybouncer: a drop-in replacement for the pgbouncer binary.

The control plane is Python on uvloop; the data plane (bouncer.relay) is Cython.
docs/architecture.md names the files in reading order.
"""

# What every place that speaks of "the version" shows: clients, monitoring and
# scripts look for the version of the program that we stand in for.
COMPATIBLE_VERSION = "1.26.1"
__version__ = "1.0.0rc1"
