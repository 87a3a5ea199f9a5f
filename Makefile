# Everything runs in .venv. Stamp files in it make the second call fast; `make clean` starts over.
#
# torch is installed first and held, so that no other requirement pulls another build. To choose a build:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
# torchtitan asks for data loaders and trackers that no test needs; these are what its layouts import.
TORCHTITAN := torchtitan==0.3.0 spmd_types==0.2.3

VENV := .venv
BIN := $(VENV)/bin
HELD := $(VENV)/held.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint types bench docs calibrate clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## plan, train in two processes with the callback, audit: about two minutes
	$(BIN)/python examples/demo/demo.py

test: $(VENV)/.installed-dev ## all tests, with lint, types and the import table among them: six minutes on two cores
	$(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile

fuzz: $(VENV)/.installed-dev ## the property tests on new random examples, many more of them
	$(BIN)/python -m pytest -q --hypothesis-profile explore -m hypothesis

lint: $(VENV)/.installed-dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy --strict on the package and its integrations
	$(BIN)/mypy carbon_plugin integrations

bench: $(VENV)/.installed-dev ## cost of monitor and accounting, layouts a second of the search, to benchmarks/results/
	$(BIN)/python benchmarks/hook_overhead.py
	$(BIN)/python benchmarks/footprint_cost.py
	$(BIN)/python benchmarks/search.py

docs: $(VENV)/.installed ## commands and tables in docs/, JSON Schemas of the reports
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/carbon_validation.py
	$(BIN)/python -m carbon_plugin.audit.json_schemas

calibrate: $(VENV)/.installed-dev ## fit the shipped constants to the published rows; write profiles and the validation tables
	$(BIN)/python -m carbon_plugin.calibrate.shipped
	$(BIN)/python docs/validation.py

clean: ## remove .venv, caches and build output; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(HELD):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) install --quiet $(TORCH)
	$(BIN)/python -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $@.partial
	mv $@.partial $@

$(VENV)/.installed: pyproject.toml $(HELD)
	$(PIP) install --quiet --constraint $(HELD) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(HELD)
	$(PIP) install --quiet --constraint $(HELD) --editable ".[dev]"
	$(PIP) install --quiet --no-deps $(TORCHTITAN)
	touch $@ $(VENV)/.installed
