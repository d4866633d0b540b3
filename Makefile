# make demo    install fullconv into .venv and run the main job, end to end, on data it makes itself
# make test    every test
# make check   what every commit must pass: ruff, mypy --strict, import-linter, the fast tests
# make bench   the benchmarks that need nothing but minutes; leave the machine alone meanwhile
# make docs    build the site of docs/ into build/site; it needs nothing of other hosts
# make docs-pictures   draw what the docs describe, into build/docs
# make web-runtime   have npm fetch what runs nets in browsers into the package, and so into wheels
# make setup   only install, with what development needs

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A worker a core, with a thread each: two threads on a busy core cost far more than they give.
# Neighbouring tests stay on one worker, and so what a file's tests share is made once. Compiled
# bytecode is kept: without, each process that tests begin compiles fullconv anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo setup check test bench docs docs-pictures web-runtime clean

demo: $(VENV)/.fullconv
	$(BIN)/fullconv demo

setup: $(VENV)/.dev

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow and not realdata"

test: $(VENV)/.dev
	$(PYTEST)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.speed.kernels
	$(BIN)/python -m benchmarks.speed.elision
	$(BIN)/python -m benchmarks.speed.predict
	$(BIN)/python -m benchmarks.speed.memory
	$(BIN)/python -m benchmarks.speed.cost
	$(BIN)/python -m benchmarks.speed.training --rounds 1
	$(BIN)/python -m benchmarks.speed.serve

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-pictures: $(VENV)/.fullconv
	$(BIN)/python docs/drawing.py voc-fcn8s build/docs/voc-fcn8s.svg
	$(BIN)/python docs/drawing.py voc-fcn32s build/docs/voc-fcn32s.svg

web-runtime: $(VENV)/.fullconv
	$(BIN)/python -m fullconv.export.web_runtime

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fullconv needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV) || \
		{ echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 2; }
	touch $@

$(VENV)/.fullconv: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.fullconv

$(VENV)/.docs: $(VENV)/.fullconv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) runs dist build .import_linter_cache .mypy_cache .ruff_cache .pytest_cache
