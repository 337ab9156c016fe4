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

.PHONY: install demo test test-fast lint format repro seeds ledger ablate ui serve bench bench-service doctor clean

install: $(STAMP)

# The stamp names the checkout: an environment shared between clones serves the one that installed last.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# A shared environment may point at another clone; then only the link is renewed, which takes seconds.
.PHONY: link
link: install
	@$(BIN)/python -I -c "import mammo, pathlib, sys; sys.exit(pathlib.Path(mammo.__file__).parents[1] != pathlib.Path.cwd())" \
	  2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps --editable .

demo: link
	$(BIN)/mammo demo

# One process for each CPU, a file to a process: what is costly to make is made once.
# One thread each: two pools of threads on two CPUs wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder --durations 15

test: link
	$(PYTEST)

test-fast: link
	$(PYTEST) -m "not slow"

lint: link
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: link
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

repro: link
	$(BIN)/mammo fetch
	$(BIN)/dvc repro
	$(BIN)/mammo runs

seeds: link
	$(BIN)/mammo seeds

# Hours of fits; stop at any time, the same target goes on.
ledger: link
	$(BIN)/mammo fetch
	$(BIN)/mammo ledger

ablate: link
	$(BIN)/mammo fetch
	$(BIN)/mammo ablate

ui: link
	$(BIN)/mammo ui --workspace $(WORKSPACE)

serve: link
	$(BIN)/mammo serve --workspace $(WORKSPACE)

# Speed of everything, in minutes: benchmarks/results.json and the table of its README.
bench: link
	$(BIN)/python -m benchmarks.run

# Load on the voting service, with wrk: benchmarks/service.json and its table.
bench-service: link
	$(BIN)/python -m benchmarks.service

doctor: link
	$(BIN)/mammo doctor

clean:
	rm -rf demo tune-demo .mypy_cache .ruff_cache .pytest_cache
