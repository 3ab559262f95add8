# On a fresh machine with Python 3.11 or newer: `make demo` sets up and runs the main job on embedded data,
# `make test` sets up and passes the tests, `make test-all` those of whole scripts as well. Nothing outside .venv/ and runs/ is touched.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c .requirements.lock
WORKERS ?= 2
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.venv/compiled
UPGRADE ?=
FREE := requests charset-normalizer chardet idna urllib3

.PHONY: demo cifar10 test test-all test-fast oracles accelerators lint docs lock extras clean

demo: .venv/demo
	$(BIN)/python -m experiments.classification.quickstart

# Hours: networks for CIFAR-10 on two cores; see experiments/cifar10.mk, which resumes.
cifar10: .venv/demo
	$(MAKE) -f experiments/cifar10.mk PYTHON=$(BIN)/python

test: .venv/test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

# What must pass before anything lands.
test-all: .venv/test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# What a contributor runs between edits: a minute on 2 cores.
test-fast: .venv/test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m fast

# The same tests with PyTorch as an independent oracle, and those of networks of Equinox, Haiku and PyTorch.
oracles: .venv/test
	$(PIP) -e '.[oracles]'
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m oracle

# Programs compiled for TPUs that are not there: minutes.
accelerators: .venv/test
	$(PIP) -e '.[plan]'
	$(BIN)/python -m pytest -m accelerator

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Pages of the API, in docs/, which git ignores.
docs: .venv/test
	$(PIP) -e '.[docs]'
	$(BIN)/pdoc --docformat google --math -o docs robustjax

# Pin every package of every extra, for every supported Python; versions that are pinned stay unless they conflict.
# `make lock UPGRADE=--upgrade` takes the newest ones. torchattacks asks for one old version of requests: were it and
# what it brings in the lock, everybody would get them.
lock: .venv/created
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-header \
		--no-annotate $(UPGRADE) $(FREE:%=--no-emit-package %) pyproject.toml -o .requirements.lock

# Does every extra and every documented install resolve against the lock?
extras: .venv/created
	$(PIP) uv
	$(BIN)/python tests/resolve_extras.py

clean:
	rm -rf .venv

.venv/created:
	@test -n "$(PYTHON)" || { echo "robustjax needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/created pyproject.toml .requirements.lock
	$(PIP) -e '.[experiments]'
	@touch $@

.venv/test: .venv/created pyproject.toml .requirements.lock
	$(PIP) -e '.[test]'
	@touch $@

.venv/dev: .venv/created pyproject.toml .requirements.lock
	$(PIP) -e '.[dev]'
	@touch $@
