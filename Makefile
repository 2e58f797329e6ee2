# The commands of this repository: they need Python 3.10 or newer and make, nothing else.
#
#   make PYTHON=python3.12 demo    uses another Python
#   make PORT=3001 dev             serves the UI elsewhere
#   make STATE=/tmp/demo demo      keeps the databases, the history and the logs elsewhere
#   make UV= demo                  installs with pip, although uv is there

PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
STATE ?= .demo

PINS := pyproject.toml example_project/pyproject.toml constraints.txt
# uv takes less than half of pip's time, and reads an index of one's own from its own settings.
UV ?= $(shell command -v uv)
UV_INSTALL = $(UV) pip install --python $(VENV)/bin/python --compile-bytecode
PIP_INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --use-pep517
INSTALL = $(if $(UV),$(UV_INSTALL),$(PIP_INSTALL)) --quiet --constraint constraints.txt

# Tests and benchmarks start hundreds of processes that import this package: an installed one has its bytecode, too.
export PYTHONDONTWRITEBYTECODE :=

# Recipes of commands that serve say exec, so that a signal to make reaches the command and not a shell around it.
.DEFAULT_GOAL := help
.PHONY: help demo dev test test-matrix lint docs bench mutations nightly production production-smoke clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

demo: $(VENV)/.example ## land the next day of flights, sync the caches, print what happened and the report
	@exec $(VENV)/bin/python -m flights.commands.demo --state "$(STATE)"

dev: $(VENV)/.example ## serve the example in Dagster's UI on port 3000, beside a local Peaka; Ctrl-C ends both
	@exec $(VENV)/bin/python -m flights.commands.dev --state "$(STATE)" --port "$(PORT)"

# Six workers for two cores, because many tests wait for a server; as collected, the longest files come first.
test: $(VENV)/.dev ## run all tests
	@$(VENV)/bin/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

test-matrix: $(VENV)/.dev ## run them from the wheel, on each Python with the lowest and the newest Dagster
	@$(VENV)/bin/nox

lint: $(VENV)/.dev ## check format, lint, types and the direction of imports
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python
	@$(VENV)/bin/ty check --quiet --python $(VENV)
	@$(VENV)/bin/lint-imports --no-cache --no-logo

docs: $(VENV)/.dev ## build the pages and the reference as a site in build/docs; a link that leads nowhere fails it
	@$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/.dev ## measure requests, times and memory; prints the tables of docs/cost.md
	@$(VENV)/bin/python -m benchmarks.fleet
	@$(VENV)/bin/python -m benchmarks.notice
	@$(VENV)/bin/python -m benchmarks.loading
	@$(VENV)/bin/python -m benchmarks.processes

mutations: $(VENV)/.dev ## take each rule of the engine away, one at a time: a test has to notice
	@$(VENV)/bin/python -m tests.mutations

nightly: $(VENV)/.dev ## the generated tests at length, and the large ones: a hundred thousand worlds, a million rows, fifty kills
	@PEAKA_WORLDS=100000 PEAKA_CAMPAIGNS=40 $(VENV)/bin/python -m pytest -n 2 --dist worksteal -s --timeout 3600 \
		tests/sync/test_worlds.py tests/worlds/test_whole_worlds.py tests/sync/test_campaign.py
	@PEAKA_TICKS=200 PEAKA_NAMES=10000 PEAKA_TABLES=84 PEAKA_ROWS=1000000 PEAKA_KILLS=50 PEAKA_CACHES=1000 PEAKA_EXAMPLES=400 $(VENV)/bin/python -m pytest -n 2 --dist worksteal --timeout 3600 \
		tests/sensors/test_polling_soak.py tests/sensors/test_polling_fleet.py tests/sensors/test_upstream_histories.py \
		tests/queries/test_query_worlds.py tests/test_factory_names.py tests/steps/test_reexecution.py \
		tests/sandbox/test_command.py tests/sandbox/test_durability.py tests/sandbox/test_sql_properties.py \
		tests/sandbox/test_contract.py tests/sandbox/test_copying.py

production: $(VENV)/.production ## kill workers, runs and the database of a deployment (PostgreSQL, Redis, Celery): it takes a quarter of an hour
	@PEAKA_PRODUCTION=all $(VENV)/bin/python -m pytest -n 0 tests/production

production-smoke: $(VENV)/.production ## the shortest of these tests
	@PEAKA_PRODUCTION=smoke $(VENV)/bin/python -m pytest -n 0 tests/production

clean: ## forget the demo's state and everything built; the virtual environment stays
	rm -rf "$(STATE)" build dist .pytest_cache .ruff_cache .hypothesis

# What `make demo` and `make dev` need, and nothing more: a newcomer waits for no linter.
$(VENV)/.example: $(PINS)
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not installed: dagster-peaka needs Python 3.10 or newer, say which with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dagster-peaka needs Python 3.10 or newer and $(PYTHON) is %d.%d: say which to use, for instance make PYTHON=python3.12 demo" % sys.version_info[:2])'
	@echo "Setting up $(VENV) (a few minutes; only now, and again when the requirements change) ..."
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable '.[sandbox]' --editable ./example_project
	@touch $@

$(VENV)/.dev: $(VENV)/.example
	@echo "Adding what tests and lint need ..."
	@$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.production: $(VENV)/.dev tests/production/requirements.txt
	@echo "Adding what a deployment needs ..."
	@$(INSTALL) --requirement tests/production/requirements.txt
	@touch $@
