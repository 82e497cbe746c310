.DEFAULT_GOAL := help
.PHONY: help setup demo up test check audit bench chaos mutation clean

VENV := .venv
BIN := $(VENV)/bin
# The first of these that runs: embedded Redis comes from a wheel on 3.11 and 3.12 only.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13 python3.14; do \
	$$p -c 'import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
# Some images set it: then every process that starts would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Lanewise needs Python 3.11 or newer with the venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# What running needs; each stamp is newer than the files that name the versions.
$(VENV)/.run-stamp: pyproject.toml constraints.txt | $(BIN)/python
	@$(INSTALL) ".[embedded,data,research,flower]"
	@touch $@

$(VENV)/.dev-stamp: pyproject.toml constraints.txt | $(BIN)/python
	@$(INSTALL) ".[embedded,data,research,llm,mcp,flower,dev]"
	@touch $@ $(VENV)/.run-stamp

setup: $(VENV)/.dev-stamp  ## everything that up, test and bench need, in .venv

demo: $(VENV)/.run-stamp  ## real runs for three users, live, on a fleet of its own
	@$(BIN)/python -m lanewise.demo

up: $(VENV)/.run-stamp  ## the fleet on embedded services, until Ctrl-C
	@$(BIN)/lanewise up $(ARGS)

test: $(VENV)/.dev-stamp  ## the test suite
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev-stamp  ## format, lint, types, import contracts, bandit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive api shared worker lanewise

audit: $(VENV)/.dev-stamp  ## known vulnerabilities of the pinned versions; needs the internet
	@$(INSTALL) ".[audit]"
	@$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bench: $(VENV)/.dev-stamp  ## the benchmarks, with a report
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.dev-stamp  ## the long fault suite, with a report
	@$(BIN)/python -m tests.chaos $(PART) $(ARGS)

mutation: $(VENV)/.dev-stamp  ## small mistakes in what decides identity and permission, each to be noticed by a test
	@$(BIN)/python -m tests.mutation $(ARGS)

clean:  ## remove .venv and what the tools left
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis artifacts
