# Everything runs from .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
TO ?= +14155550100
ARGS ?=
RUNS ?= 100000
EXAMPLES ?= 200
TARGET ?=
# These tests share no server and measure no time, so that they may run beside each other.
TOGETHER := not (kafka or postgres or redis or livekit or sip or serial)
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist worksteal -m "$(TOGETHER)"

.DEFAULT_GOAL := help
.NOTPARALLEL: # one pip at a time in one .venv
.PHONY: help setup run call check test test-all coverage mutation servers format lock bench fuzz api-fuzz clean

help: ## What there is to do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: .venv/installed ## Make .venv with the `switchboard` command

run: setup ## Start the sandbox on 127.0.0.1:8080; no account needed
	@$(BIN)/switchboard up --sandbox $(ARGS)

call: setup ## Place a test call: make call TO=+14155550100
	@$(BIN)/switchboard call $(TO) $(ARGS)

check: .venv/installed-dev ## Lint, format, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## The checks, and every test that needs no server: while you work
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

# First what may run side by side, then one by one what has a server, or the machine, to itself.
# The second part runs whatever became of the first. pytest ends with 5 where nothing was selected,
# which is all right only if ARGS selects.
test-all: check ## The checks and every test whose servers can start here: what CI runs
	export TEST_IN_PARTS=1; \
	$(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS); together=$$?; \
	$(BIN)/pytest -m "not ($(TOGETHER))" $(ARGS); alone=$$?; \
	case $$together-$$alone in 0-0 $(if $(strip $(ARGS)),| 0-5 | 5-0)) ;; \
	  *) echo "pytest ended with $$together and $$alone, in this order." >&2; exit 1 ;; esac

coverage: .venv/installed-dev ## What the tests cover that need no server
	$(BIN)/pytest $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered $(ARGS)

servers: .venv/installed-dev ## Build or find Kafka, LiveKit, PostgreSQL, Redis and SIPp for the tests
	$(BIN)/python -m tests.support.servers $(ARGS)

format: .venv/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# For every platform and Python from 3.11 on; what is pinned already stays unless ARGS=--upgrade.
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
  --no-annotate

lock: | .venv/bin/uv ## Pin what is asked for and not pinned yet; all anew: make lock ARGS=--upgrade
	$(COMPILE) $(ARGS) pyproject.toml --group dev -o requirements-dev.lock
	$(COMPILE) $(ARGS) pyproject.toml -c requirements-dev.lock -o requirements.lock
	$(COMPILE) $(ARGS) requirements-fuzz.in -c requirements-dev.lock -o requirements-fuzz.lock
	$(COMPILE) $(ARGS) requirements-mutation.in -c requirements-dev.lock -o requirements-mutation.lock

# Not the stamp: what pyproject.toml asks for since this morning can't be installed before it is pinned.
.venv/bin/uv:
	@$(MAKE) .venv/installed-dev

bench: .venv/installed-dev ## Measure, and write bench/RESULTS.md
	$(BIN)/python -m bench $(ARGS)

fuzz: .venv/installed-fuzz ## Fuzz the verifiers and parsers: make fuzz RUNS=10000000 TARGET=log
	$(BIN)/python -m tests.fuzz --runs $(RUNS) $(TARGET)

api-fuzz: .venv/installed-dev ## Ask the API everything its documents allow, and not: EXAMPLES=1000
	$(BIN)/python -m tests.api.fuzz --examples $(EXAMPLES) $(ARGS)

mutation: .venv/installed-mutation ## Which changes of the code no test notices: [tool.mutmut]
	$(BIN)/mutmut run $(ARGS)
	@$(BIN)/mutmut results

clean: ## Remove .venv and what tools left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants *.egg-info

# pip is the last that venv brings: a .venv without it was cut short, and is made anew.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Switchboard needs Python 3.11 or newer; say which: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv --clear .venv \
	  || { rm -rf .venv; echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; \
	       exit 1; }

# A lock is installed whole and alone. Without --no-deps pip would also look up what each package
# asks for, find releases that are newer than the pins, and give up on them for want of a hash:
# whether it installs would depend on what came out that day. Wheels only, as building one fetches
# unpinned tools. The stamp is the lock that is installed, so that what the next one no longer names
# can be removed; it is written when all went well. What was cut short may have left half a package
# that pip takes for whole: the next time everything is installed over it.
PIP := $(BIN)/python -m pip --disable-pip-version-check
define install
@again=; test ! -e .venv/unfinished || again=--force-reinstall; touch .venv/unfinished; \
  $(PIP) install -q $$again --require-hashes --no-deps --only-binary :all: -r $<
@grep -hoE '^[a-z0-9.-]+==' requirements*.lock >.venv/pinned
@test ! -e $@ || grep -oE '^[a-z0-9.-]+==' $@ | grep -vxFf .venv/pinned | tr -d = \
  | xargs -r $(PIP) uninstall -q -y
@$(if $(filter %/installed,$@),$(PIP) install -q --no-deps --no-build-isolation -e .)
@$(PIP) check || { echo "$< lacks what is named above: make lock pins it" >&2; exit 1; }
@cp $< $@ && rm .venv/unfinished
endef

.venv/installed: requirements.lock pyproject.toml .venv/bin/pip
	@echo "Installing what requirements.lock pins into .venv (a minute, once) …"
	$(install)

.venv/installed-dev: requirements-dev.lock .venv/installed
	@echo "Installing the test tools into .venv (some minutes, once) …"
	$(install)

.venv/installed-fuzz: requirements-fuzz.lock .venv/installed-dev
	@echo "Installing the fuzzer into .venv (once) …"
	$(install)

.venv/installed-mutation: requirements-mutation.lock .venv/installed-dev
	@echo "Installing the mutation tester into .venv (once) …"
	$(install)
