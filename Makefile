# Everything runs in .venv. Stamp files in it make the second call fast; `make clean` starts over.
#
# The locks in requirements/ name every package with the hashes of its files, so that a new release of a dependency
# changes nothing here. torch is not in them: install the build of your choice with
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
UV ?= uv==0.13.9

VENV := .venv
BIN := $(VENV)/bin
# Four processes for two cores: many tests wait for a meter's window and need no core meanwhile.
PYTEST := python -m pytest -q --numprocesses 4 --dist loadfile --no-loadscope-reorder

# A venv at $(1): the packages of the lock files $(2), then torch, then this package as it lies here. Nothing that is
# installed from a lock may pull its own requirements, so that none can bring another build of torch.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes $(foreach lock,$(2),-r requirements/$(lock).lock)
	$(1)/bin/python -c "import torch" 2>/dev/null || $(1)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(1)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
endef

LOCK := .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --override requirements/without_torch.txt --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-newest test-lowest lock fuzz lint types bench docs pictures tables calibrate clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## plan, train in two processes with the callback, audit: about two minutes
	$(BIN)/python examples/demo/demo.py

test: $(VENV)/.installed-dev ## the tests, with lint and the import table among them: six minutes on two cores
	$(BIN)/$(PYTEST)

test-all: test ## the tests, then types, the exhaustive tests that `make test` leaves out, more examples of properties
	$(BIN)/$(PYTEST) --hypothesis-profile thorough -m "exhaustive or hypothesis"

# uv finds releases that fit one another in half a minute, where pip has looked for them for half an hour.
test-newest: ## the tests in .venv-newest with the newest releases of everything but torch
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -c "import torch" 2>/dev/null || .venv-newest/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet "$(UV)"
	.venv-newest/bin/python -c "from importlib.metadata import version; print('torch==' + version('torch'))" > .venv-newest/torch.txt
	.venv-newest/bin/uv pip install --quiet --python .venv-newest/bin/python --upgrade --constraint .venv-newest/torch.txt -r requirements/trainers.in --editable ".[dev]"
	.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/layouts.lock
	.venv-newest/bin/$(PYTEST)

test-lowest: ## the tests in .venv-lowest with the lowest direct releases that pyproject.toml allows
	$(call install,.venv-lowest,lowest layouts)
	.venv-lowest/bin/$(PYTEST) --ignore tests/repository/test_quality.py  # types are checked against the locked releases

lock: ## write requirements/*.lock anew from pyproject.toml with the newest releases
	test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet "$(UV)"
	$(LOCK) pyproject.toml requirements/torch.in requirements/trainers.in --extra dev -o requirements/dev.lock
	$(LOCK) pyproject.toml requirements/torch.in --constraint requirements/dev.lock -o requirements/core.lock
	$(LOCK) pyproject.toml requirements/torch.in --extra calibrate --constraint requirements/dev.lock -o requirements/demo.lock
	$(LOCK) pyproject.toml --extra docs --constraint requirements/dev.lock -o requirements/docs.lock
	$(LOCK) requirements/layouts.in --no-deps -o requirements/layouts.lock
	$(LOCK) requirements/tools.in --constraint requirements/dev.lock -o .venv-lock/tools.txt
	$(LOCK) pyproject.toml --extra dev --constraint .venv-lock/tools.txt --resolution lowest-direct -o requirements/lowest.lock

fuzz: $(VENV)/.installed-dev ## the property tests on new random examples, many more of them
	$(BIN)/python -m pytest -q --hypothesis-profile explore -m hypothesis

lint: $(VENV)/.installed-dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy --strict on the package and its integrations, and names that tests and scripts use
	$(BIN)/mypy carbon_plugin
	$(BIN)/python -m tests.repository.unknown_names

bench: $(VENV)/.installed-dev ## cost of monitor and accounting, one prediction, layouts a second of the search, cold starts, to benchmarks/results/
	$(BIN)/python benchmarks/hook_overhead.py
	$(BIN)/python benchmarks/footprint_cost.py
	$(BIN)/python benchmarks/prediction.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/cold_start.py

docs: $(VENV)/.installed .venv-docs/.installed ## commands and tables in docs/, JSON Schemas, and the site in build/site
	$(BIN)/python docs/commands.py
	$(BIN)/python docs/blind_sets.py
	$(BIN)/python docs/carbon_validation.py
	$(BIN)/python docs/goodput.py
	$(BIN)/python docs/scaling.py
	$(BIN)/python docs/readme.py
	$(BIN)/python -m carbon_plugin.audit.exports.json_schemas
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --quiet

pictures: $(VENV)/.installed-dev ## pictures of the demo report to docs/pictures/, of simulated runs to build/pictures/ (needs Chromium)
	$(BIN)/python docs/pictures.py

tables: $(VENV)/.installed-dev ## write the shipped tables (grid, PUE, water, regions, hardware, hosts) from tools/sources/
	$(BIN)/python -m tools.rebuild all

calibrate: $(VENV)/.installed-dev ## fit the shipped constants to the published rows; write profiles, spreads and the validation tables
	$(BIN)/python -m carbon_plugin.calibrate.shipped
	$(BIN)/python -m carbon_plugin.validate.step.spreads
	$(BIN)/python -m carbon_plugin.validate.run.real_runs
	$(BIN)/python docs/validation.py

clean: ## remove .venv, caches and build output; runs/ stays
	rm -rf $(VENV) .venv-newest .venv-lowest .venv-lock .venv-docs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml requirements/demo.lock
	$(call install,$(VENV),demo)
	touch $@

.venv-docs/.installed: requirements/docs.lock
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/docs.lock
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements/dev.lock requirements/layouts.lock
	$(call install,$(VENV),dev layouts)
	touch $@ $(VENV)/.installed
