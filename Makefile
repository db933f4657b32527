# What people type. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help install train plan test slow fast lint format types layers check hooks ci clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## the package, editable, with the tools of development
	$(PYTHON) -m pip install -e '.[dev]'

train:  ## the default run: nano model, embedded essays
	$(PYTHON) train.py

plan:  ## what the default run would cost, without running it
	$(PYTHON) train.py check_only=true

test:  ## what continuous integration tests
	$(PYTHON) -m pytest

slow:  ## what takes minutes: strategies, kills, sweeps
	$(PYTHON) -m pytest -m slow

fast:  ## unit tests alone
	$(PYTHON) -m pytest tests/unit

lint:  ## ruff's rules
	$(PYTHON) -m ruff check

format:  ## rewrite files in ruff's format
	$(PYTHON) -m ruff format

types:  ## mypy, strict
	$(PYTHON) -m mypy

layers:  ## imports point upstream only
	lint-imports

check: lint types layers  ## all that needs no run, formatting included
	$(PYTHON) -m ruff format --check

hooks:  ## check every commit before it is made
	pre-commit install

ci:  ## what continuous integration does, in a fresh environment
	.ci/run

clean:  ## caches of tools; runs and the cache of samples stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find aes tests benchmarks -type d -name __pycache__ -exec rm -rf {} +
