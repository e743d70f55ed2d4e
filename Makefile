# Every command for people who work on pybouncer; docs/develop.md explains them.
#
#   PYTHON=...        the interpreter that .venv is made from
#   VENV=...          where the virtual environment goes
#   BOUNCER_DEBUG=1   a build that counts objects and checks itself; see `checked`
#   RECORD=1          let `bench-count` write down what it has counted
#   SHORT=1           only what takes minutes of `sanitize`
#   LONG=1            only what `test` leaves out of `compat`
#   FUZZ_SECONDS=...  how long `fuzz` goes on in all
#   JOBS=3            how many processes share the files of `test`
#   POOLER=...        the program that `test`, `live`, `compat` drive, instead of ours

VENV ?= .venv
JOBS ?= 3
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
POOLER_OPTION := $(if $(POOLER),--pooler="$(POOLER)")

# The pooler refuses to run as root, so as root the tests start it as another user,
# who must be able to read the interpreter: not one below /root.
PYTHON ?= $(shell \
	where=$$(python3 -c 'import os, sys; print(os.path.realpath(sys.executable))'); \
	case "$$(id -u):$$where" in (0:/root/*) echo /usr/bin/python3 ;; \
	(*) echo python3 ;; esac)

FLAVOUR := $(if $(filter 1,$(BOUNCER_DEBUG)),debug,release)
BUILT := $(VENV)/built-$(FLAVOUR)
SOURCES := $(shell find bouncer admin ha -name '*.py' -o -name '*.pyx' -o -name '*.pxd')
debug_CFLAGS := -O1 -g -fwrapv -DBOUNCER_DEBUG=1
release_CFLAGS := -O2 -g0 -fwrapv -DNDEBUG

.PHONY: build demo test checked lint unit live compat adversity bench bench-short \
	bench-count soak fuzz fuzz-again fuzz-keep outside outside-short odoo sanitize dist \
	deb clean distclean

build: $(BUILT)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11: name another with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
		echo "$(PYTHON) lacks venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What builds and runs us, and what tests us: from pyproject.toml, when it changes.
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python tests/support/install.py requirements demo ha > $@.txt
	$(PIP_INSTALL) -r $@.txt
	$(BIN)/python tests/support/install.py scripts
	touch $@

$(VENV)/testable: pyproject.toml $(VENV)/installed
	$(BIN)/python tests/support/install.py requirements test > $@.txt
	$(PIP_INSTALL) -r $@.txt
	touch $@

# Only what has changed; everything when the flavour has changed.
$(BUILT): $(SOURCES) pyproject.toml | $(VENV)/installed
	@echo "compiling ($(FLAVOUR)); the first time this takes a few minutes"
	@CFLAGS="$($(FLAVOUR)_CFLAGS)" $(BIN)/python -W ignore \
		-c 'from setuptools import setup; setup()' --quiet build_ext --inplace \
		$(if $(wildcard $(BUILT)),,--force)
	@# Bytecode, too: whoever runs it, such as user postgres, may not be able to write it,
	@# and would compile all modules at each start.
	@$(BIN)/python -m compileall -q bouncer admin ha
	@rm -f $(VENV)/built-*
	@touch $@

demo: build
	@$(BIN)/pybouncer demo

# Files in their order, which is that of directories: those that wait come first, and
# many small ones that work come last, so that all are done at the same time. xdist's own
# order, files of few tests last, ended with one that waited for a minute, alone.
WORKERS := -n $(JOBS) --dist loadfile --no-loadscope-reorder

# All that decides whether a change may go in.
test: build $(VENV)/testable
	$(PYTEST) $(POOLER_OPTION) -m "not slow" $(WORKERS)

# With the build that checks itself: the relay, and live tests that open, share and end
# connections in many ways. `make build` makes the release build again.
CHECKED_TESTS := $(addprefix tests/live/test_, adversity.py pool_life.py queueing.py \
	takeover.py wells.py) tests/relay tests/fuzz/test_relay.py

checked:
	$(MAKE) BOUNCER_DEBUG=1 build $(VENV)/testable
	$(PYTEST) -m "not slow" $(WORKERS) $(CHECKED_TESTS)

lint: build $(VENV)/testable
	$(PYTEST) tests/test_source.py tests/test_floors.py

unit: build $(VENV)/testable
	$(PYTEST) tests/unit tests/relay

live: build $(VENV)/testable
	$(PYTEST) $(POOLER_OPTION) tests/live

adversity: build $(VENV)/testable
	$(PYTEST) $(POOLER_OPTION) -m adversity

# Every recording of the original, not only the quick ones; with LONG=1 only the others.
compat: build $(VENV)/testable
	$(PYTEST) $(POOLER_OPTION) tests/compat \
		$(if $(filter 1,$(LONG)),--long-recordings,--all-recordings)

bench: build $(VENV)/testable
	$(BIN)/python -m tests.bench

bench-short: build $(VENV)/testable
	$(BIN)/python -m tests.bench --short

# Instructions per transaction, against tests/bench/counts.json.
bench-count: build $(VENV)/testable
	$(BIN)/python -m tests.bench.counts $(if $(filter 1,$(RECORD)),--record)

soak: build $(VENV)/testable
	$(PYTEST) $(POOLER_OPTION) -m slow --timeout=3600

# Other people's suites, drivers and tools through us; hostile clients and servers, and
# what others feel of them, with the real PgBouncer.
outside: build $(VENV)/testable
	$(BIN)/python -m tests.outside
	$(BIN)/python -m tests.hostile

outside-short: build $(VENV)/testable
	$(BIN)/python -m tests.outside --short
	$(BIN)/python -m tests.hostile --short

# The real Odoo on PostgreSQL 18, directly and behind us; as root on Debian, 1.7 GB.
odoo: build $(VENV)/testable
	$(BIN)/python -m tests.odoo $(ODOO_OPTIONS)

# Relay tests, corpora and hostile live tests with AddressSanitizer and UBSan, on a copy.
sanitize: build $(VENV)/testable
	$(BIN)/python -m tests.sanitize $(if $(filter 1,$(SHORT)),--short)

# Of the time half is guided by coverage (tests/fuzz/__main__.py), and a sixth is for random
# conversations that must go as directly with PostgreSQL (tests/differential); the rest is
# for properties with many examples, and for random bytes against a live pooler.
FUZZ_SECONDS ?= 600
LIVE_SECONDS = $(shell expr $(FUZZ_SECONDS) / 15 + 1)

fuzz: build $(VENV)/testable $(VENV)/fuzzable
	$(BIN)/python -m tests.fuzz --seconds $$(expr $(FUZZ_SECONDS) / 2)
	$(BIN)/python -m tests.differential --seconds $$(expr $(FUZZ_SECONDS) / 6)
	FUZZ_EXAMPLES=$$(expr $(FUZZ_SECONDS) \* 2) $(PYTEST) --hypothesis-profile=fuzz \
		-m "hypothesis and not slow" --timeout=3600 \
		tests/unit tests/relay tests/fuzz/test_relay.py
	FUZZ_SECONDS=$(LIVE_SECONDS) $(PYTEST) $(POOLER_OPTION) -s tests/fuzz/test_live.py

# A find again, in the build that found it.
fuzz-again: $(VENV)/fuzzable
	$(BIN)/python -m tests.fuzz again $(TARGET) $(FIND)

# Minimise what fuzzing has grown, and put it among the inputs that are kept.
fuzz-keep: $(VENV)/fuzzable
	$(BIN)/python -m tests.fuzz keep $(TARGET)

# Where there is no atheris for this Python the fuzzer says so itself.
$(VENV)/fuzzable: pyproject.toml | $(VENV)/installed
	$(BIN)/python tests/support/install.py requirements fuzz > $@.txt
	$(PIP_INSTALL) -r $@.txt || echo "no atheris here"
	touch $@

# The sdist, and a wheel for each Python that is here (or those that PYTHONS names, such
# as python3.13 or forky:aarch64; or those of MACHINES="x86_64 aarch64").
dist: $(VENV)/installed
	$(BIN)/python tests/support/install.py requirements dist \
		$(if $(MACHINES)$(findstring :,$(PYTHONS)),cross) > $(VENV)/dist.txt
	$(PIP_INSTALL) -r $(VENV)/dist.txt
	$(BIN)/python docs/packaging/wheels.py dist $(PYTHONS) $(MACHINES)

# dist/pybouncer_VERSION_ARCH.deb, for the Debian whose python3 made $(VENV); needs
# debhelper, dh-python, and lintian if it is to be looked at.
deb: build $(VENV)/packaging
	docs/packaging/debian/build-deb.sh $(BIN)/python dist
	@! command -v lintian >/dev/null || lintian --fail-on error dist/pybouncer_*.deb

$(VENV)/packaging: pyproject.toml | $(VENV)/installed
	$(BIN)/python tests/support/install.py requirements manuals > $@.txt
	$(PIP_INSTALL) -r $@.txt
	touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find bouncer admin ha -name '*.so' -delete
	find bouncer admin ha -name '*.c' -delete
	rm -f $(VENV)/built-*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
