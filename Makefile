# Every target makes or reuses one virtual environment. VENV=path shares it between clones.
VENV ?= .venv
PYTHON ?= python3
# Here, unless only the demo has a champion. Asked when a target needs it.
WORKSPACE ?= $(shell $(BIN)/python -c "from mammo.track.check import place_of_champion as p; print(p('.', 'demo'))")
BIN := $(VENV)/bin
STAMP := $(VENV)/.mammo-installed
export PATH := $(abspath $(BIN)):$(PATH)
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false

.PHONY: help install demo test test-slow lint format repro seeds ledger ablate ui serve bench bench-service doctor clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## the environment, in VENV (.venv)

# The stamp names the checkout: an environment shared between clones serves the one that installed last.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	  'Python 3.11 or newer is needed, got ' + sys.version.split()[0] + ': make PYTHON=python3.11 …')" && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# A shared environment may point at another clone; then only the link is renewed, which takes seconds.
.PHONY: link
link: install
	@$(BIN)/python -I -c "import mammo, pathlib, sys; sys.exit(pathlib.Path(mammo.__file__).parents[1] != pathlib.Path.cwd())" \
	  2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps --editable .

demo: link ## the whole pipeline on synthetic films, minutes
	$(BIN)/mammo demo

# One process for each CPU, a file to a process: what is costly to make is made once.
# One thread each: two pools of threads on two CPUs wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder --durations 15

test: link ## the fast tests, 6–8 minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: link ## the others: servers, browsers, kills, clones, the real films
	$(PYTEST) -m slow

lint: link ## style, types, the contract of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: link ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

repro: link ## fetch the ROIs, run the pipeline, show the runs
	$(BIN)/mammo fetch
	$(BIN)/dvc repro
	$(BIN)/mammo runs

seeds: link ## every system over ten seeds
	$(BIN)/mammo seeds

ledger: link ## every system, published and honest protocol; hours, resumable
	$(BIN)/mammo fetch
	$(BIN)/mammo ledger

ablate: link ## each defect of the paper's recipe alone; hours, resumable
	$(BIN)/mammo fetch
	$(BIN)/mammo ablate

ui: link ## compare runs in MLflow
	$(BIN)/mammo ui --workspace $(WORKSPACE)

serve: link ## the page and the API of the champion
	$(BIN)/mammo serve --workspace $(WORKSPACE)

bench: link ## speed of everything, minutes
	$(BIN)/python -m benchmarks.run

bench-service: link ## load on the service, with wrk
	$(BIN)/python -m benchmarks.service

# Spark for its test alone, beside the environment: it warns of the pandas there.
.spark: constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade --target .spark --constraint constraints.txt pyspark
	touch .spark

doctor: link ## what is missing
	$(BIN)/mammo doctor

clean: ## remove what demo, tests and linters left
	rm -rf .spark demo tune-demo .mypy_cache .ruff_cache .pytest_cache
