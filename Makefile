# make run    start Parley on this machine        make check  lint, types, contracts, unit tests (< 60 s)
# make test   everything, with real components    make clean  remove what the others made
# make compiled   the unit tests against a build that mypyc compiled (needs a C compiler)
# make bench  compare with PeerServer, a ws relay and a C++ limit (needs g++ and npm)
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
EXTRAS := '.[probes,test]'
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install --retries 5
PYTEST := $(BIN)/python -m pytest
# pip and npm try a connection again, but not a download that breaks off.
twice = $(1) || { echo "failed; once more"; sleep 5; $(1); }

.PHONY: help run test check format js bench compiled clean
help:
	@sed -n 's/^# //p' Makefile

$(VENV)/run.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Parley needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python cannot make virtual environments: install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call twice,$(PIP) -e '.[probes]')
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(call twice,$(PIP) -e $(EXTRAS))
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	$(call twice,npm ci --no-audit --no-fund --loglevel=error)
	@touch $@

run: $(VENV)/run.stamp
	@$(BIN)/parley dev $(ARGS)

format: $(VENV)/test.stamp
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

js: node_modules/.package-lock.json
	@npm run --silent types
	@npm test --silent

check: $(VENV)/test.stamp
	@$(BIN)/ruff format --check -q .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >/dev/null || { $(BIN)/lint-imports; exit 1; }
	@if command -v npm >/dev/null; then $(MAKE) -s js; else echo "npm is not installed: JavaScript is not checked"; fi
	@$(PYTEST) -q tests/unit tests/model

test: $(VENV)/test.stamp
	@tests/install-system-packages
	@if command -v npm >/dev/null; then $(MAKE) -s js; \
	 elif [ -n "$$CI" ]; then echo "npm is missing"; exit 1; \
	 else echo "skipped: JavaScript tests, npm is not installed"; fi
	@$(PYTEST) -n 2 --dist loadfile $(ARGS)

compiled: $(VENV)/test.stamp
	@rm -rf test-output/compiled
	@PARLEY_COMPILE=1 $(PIP) --no-deps --target test-output/compiled .
	@PYTHONPATH=test-output/compiled $(BIN)/python -P -c 'import signal_server.build as b; assert b.is_compiled()'
	@PYTHONPATH=test-output/compiled $(BIN)/python -P -m pytest -q tests/unit/signal_server tests/model

bench: $(VENV)/run.stamp
	@$(BIN)/python bench/run.py $(ARGS)

clean:
	rm -rf $(VENV) node_modules bench/node_modules test-output .parley .pytest_cache .mypy_cache .ruff_cache .hypothesis
