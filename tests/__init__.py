"""Tests of pybouncer; see tests/README.md."""
