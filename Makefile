# tensorpool: `make up` and `make test` are all that a fresh machine needs.
# Settings: ARGS="..." for the command that a target runs, PYTHON=... to choose the interpreter.

BIN := .venv/bin
# Folders that are there; a checkout may lack some.
TYPED := $(wildcard tensorpool tests bench docs/screens)
LINTED := $(wildcard tensorpool tests bench examples stubs docs tools)

.DEFAULT_GOAL := help
.PHONY: help setup up test chaos fuzz check docs bench soak lock clean

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Not a file target: the script compares contents, and so notices a moved checkout as well.
setup: ## make .venv fit requirements.lock (every target does this by itself)
	@tools/setup

# `exec` leaves no shell in between: signals that make passes on reach the launcher itself.
up: setup ## bring the host's driver up; Ctrl-C ends it (ARGS="config.toml")
	@exec $(BIN)/tensorpool up $(ARGS)

test: setup ## run every test (ARGS="-k attach -x")
	@$(BIN)/python -m pytest $(ARGS)

ROUNDS ?= 1000
SEED ?= 7
chaos: setup ## run the fault tests at their full length, then random faults (ARGS="-k frozen" ROUNDS=1000 SEED=7)
	@TENSORPOOL_CHAOS_FULL=1 $(BIN)/python -m pytest tests/chaos $(ARGS)
	@$(BIN)/python -m tests.chaos.rounds --rounds $(ROUNDS) --seed $(SEED)

# atheris is no part of the lock: it has wheels for some machines only, and without it the
# seeded mutants of the test suite are tried for as long.
TARGET ?= wire
SECONDS ?= 60
fuzz: setup ## fuzz one class of input (TARGET=wire|uri|config|registry|... SECONDS=60)
	@$(BIN)/python -c 'import atheris' 2>/dev/null \
		|| $(BIN)/python -m pip install -qq -r tests/fuzz/requirements.txt || true
	@$(BIN)/python -m tests.fuzz $(TARGET) --seconds $(SECONDS) $(ARGS)

check: setup ## lint, format, types, import direction
	@$(BIN)/ruff check $(LINTED)
	@$(BIN)/ruff format --check $(LINTED)
	@$(BIN)/mypy $(TYPED)
	@$(BIN)/python -m pytest -q tests/unit/test_import_direction.py

docs: setup ## build the documentation into docs/_build; a warning fails
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

bench: setup ## measure speed beside other transports into docs/benchmarks.md (ARGS="--rounds 9")
	@$(BIN)/python -m bench
	@$(BIN)/python -m bench.idle
	@$(BIN)/python -m bench.control
	@$(BIN)/python -m bench.peers --report $(ARGS)

MINUTES ?= 60
soak: setup ## watch a host under churn for what grows, into docs/reliability.md (MINUTES=60)
	@exec $(BIN)/python -m bench.soak --minutes $(MINUTES) $(ARGS)

lock: ## resolve the dependencies anew into requirements.lock
	@tools/lock

clean: ## remove what make and the tools made
	rm -rf .venv .venv-bench tensorpool/_hot*.so build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(TYPED) $(wildcard examples docs) -name __pycache__ -type d -prune -exec rm -rf {} +
