# One command for each habit of the project. `make help` lists them.

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMP := $(VENV)/.installed

# The first Python that runs and is new enough; `make setup PYTHON=...` names another. Looked for only when it is needed.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help setup run lint test test-all docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## make .venv with the gamut command; does nothing when nothing changed

# torch goes first and alone: the build chosen by its pin stays, whatever the later packages would ask for.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	@touch $@

run: setup  ## run the first example
	$(PY) examples/first_model.py

lint: setup  ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint  ## lint, and run every test that is not slow
	$(PY) -m pytest -m "not slow"

test-all: lint  ## lint, and run every test
	$(PY) -m pytest

docs: setup  ## write the pages that are made from the code
	$(PY) scripts/docs.py

clean:  ## remove everything that was made here
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
