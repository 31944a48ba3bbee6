# Everything runs from .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
TO ?= +14155550100
ARGS ?=
RUNS ?= 100000
TARGET ?=

.DEFAULT_GOAL := help
.PHONY: help setup run call test test-fast coverage servers format lock bench fuzz clean

help: ## What there is to do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: .venv/installed ## Make .venv with the `switchboard` command

run: setup ## Start the sandbox on 127.0.0.1:8080; no account needed
	@$(BIN)/switchboard up --sandbox $(ARGS)

call: setup ## Place a test call: make call TO=+14155550100
	@$(BIN)/switchboard call $(TO) $(ARGS)

test: .venv/installed-dev ## All checks and every test whose servers can start here
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(ARGS)

test-fast: .venv/installed-dev ## Only the tests that need no server
	$(BIN)/pytest -m "not (kafka or postgres or redis or livekit or sip or slow)" $(ARGS)

coverage: .venv/installed-dev ## The tests that need no server, with what they cover
	$(BIN)/pytest -m "not (kafka or postgres or redis or livekit or sip or slow)" \
	  --cov --cov-report=term:skip-covered $(ARGS)

servers: .venv/installed-dev ## Build or find Kafka, LiveKit, PostgreSQL, Redis and SIPp for the tests
	$(BIN)/python -m tests.support.servers $(ARGS)

format: .venv/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/installed-dev ## Pin anew what is installed
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate pyproject.toml --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate requirements-fuzz.in -o requirements-fuzz.lock

bench: .venv/installed-dev ## Measure, and write bench/RESULTS.md
	$(BIN)/python -m bench $(ARGS)

fuzz: .venv/installed-fuzz ## Fuzz the verifiers and parsers: make fuzz RUNS=10000000 TARGET=log
	$(BIN)/python -m tests.fuzz --runs $(RUNS) $(TARGET)

clean: ## Remove .venv and what tools left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

# setuptools is in the lock, so the project itself is built without fetching anything unpinned.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Switchboard needs Python 3.11 or newer; say which: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv .venv \
	  || { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/installed: requirements.lock pyproject.toml .venv/bin/python
	@echo "Installing what requirements.lock pins into .venv (a minute, once) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "Installing the test tools into .venv (some minutes, once) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

.venv/installed-fuzz: requirements-fuzz.lock .venv/installed-dev
	@echo "Installing the fuzzer into .venv (once) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-fuzz.lock
	@touch $@
