# `make demo` and `make test` need Python 3.11 and nothing else; all else goes into .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PROMPT ?= a red apple
TESTS  ?=
# Half of the tests wait for servers and processes; each process of pytest starts its own.
PARALLEL ?= -n logical --maxprocesses 4 --dist worksteal
BIN    := .venv/bin
# Tests start this code a hundred times over: it is compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo up test test-fast drill check lint format docs clean

help:            ## what there is
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

demo: .venv/installed   ## start everything, make one picture, stop (PROMPT="a blue rocket")
	@$(BIN)/qanvas demo "$(PROMPT)"

up: .venv/installed     ## run everything until Ctrl-C
	@$(BIN)/qanvas up

test: .venv/tested   ## every test, with real servers and killed processes
	$(BIN)/pytest $(PARALLEL) $(TESTS)

test-fast: .venv/tested  ## the tests that take less than two minutes together
	$(BIN)/pytest $(PARALLEL) -m "not slow and not chaos and not gpu" $(TESTS)

drill: .venv/tested  ## kill everything at random for long (SEED=7 JOBS=3000 SECONDS=600 DATABASE=sqlite WRITE=1)
	$(BIN)/python -m tests.drills $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(DATABASE),--database $(DATABASE)) \
		$(if $(WRITE),--write)

lint: .venv/tested   ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test        ## all that must pass before a change goes in

format: .venv/tested ## put the code into its usual form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/tested   ## write docs/settings.md from the table of settings
	$(BIN)/python -m cli.settings_page > docs/settings.md

clean:           ## forget the environment
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Qanvas needs Python 3.11; make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Qanvas needs Python 3.11, $(PYTHON) is older; make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making .venv with $(PYTHON) …"
	@$(PYTHON) -m venv .venv
	@echo "Installing Qanvas and what it needs into .venv (torch is large; minutes on a slow line) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[up]'
	@touch $@

# What tests, benchmarks and style checks need besides.
.venv/tested: .venv/installed
	@echo "Installing what the tests need into .venv …"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
