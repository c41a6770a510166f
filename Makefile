# Everything sets itself up: a machine with Python 3.11+, git and make is enough (Linux for the local cluster).
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
UV := .uv/bin/uv
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SOURCES := operator/src forecaster/src serving/src localcluster/src demo/src
PACKAGES := -p deepseek_operator -p deepseek_forecaster -p deepseek_serving -p deepseek_localcluster -p deepseek_demo

# One thread per process: with more threads than free cores torch's barriers spin, and everything gets ten times slower.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0

# Options of single targets, e.g. `make demo TRACE=day.csv`, `make test TESTS=tests/unit`
TRACE ?=
TRACES ?= ../shared/traces
TESTS ?= tests
PYTEST ?=
DEMO ?=
BENCH ?=
JOBS ?= 2
QUICK ?=

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: demo
demo: setup ## Play a day's traffic against the whole system on this machine (TRACE=file.csv for a recorded one)
	$(BIN)/deepseek-demo run $(if $(TRACE),--trace $(TRACE)) $(DEMO)

.PHONY: test
test: setup ## Run every test, on real parts (TESTS=tests/unit for the fast ones)
	$(if $(filter tests,$(TESTS)),$(BIN)/deepseek-localcluster build)
	$(BIN)/pytest $(TESTS) $(PYTEST)

.PHONY: test-hardening
test-hardening: setup ## Attack the server: damaged pictures, forged URLs, odd JSON, slow and leaving clients, 10,000 cases of its schema (10 minutes)
	DEEPSEEK_HARDENING=full $(BIN)/pytest tests/hardening $(PYTEST)

.PHONY: check
check: setup ## Lint, types, import layers, and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/house.py

.PHONY: verify
verify: setup ## Regenerate what is generated and fail when it differs from what is committed
	$(UV) lock --check
	$(BIN)/deepseek-operator crds --check

.PHONY: crds
crds: setup ## Generate crds/, the chart's copy and docs/api.md from the models
	$(BIN)/deepseek-operator crds

.PHONY: tiny-model
tiny-model: setup ## Train the tiny multimodal model that demo and tests serve (about two minutes, once)
	$(BIN)/deepseek-serving tiny-model --out build/tiny-model

.PHONY: bench
bench: setup ## Hold the policy against its rivals' own code over the traces of TRACES=folder: docs/benchmark.md (QUICK=1 for a few minutes)
	PYTHONPATH=tests $(BIN)/python -m bench --traces $(TRACES) --jobs $(JOBS) $(if $(QUICK),--quick) $(BENCH)

.PHONY: bench-real
bench-real: setup ## Play one compressed stretch on real Ray nodes, under our modes and Ray's own autoscaler, beside the simulator: docs/benchmark-real.md
	PYTHONPATH=tests $(BIN)/python -m bench.real_day $(if $(TRACE),--trace $(TRACE)) --docs docs/benchmark-real.md $(BENCH)

.PHONY: bench-forecast
bench-forecast: setup ## Measure the forecaster on every multi-day trace of TRACES=folder, and write the tables of docs/forecasting.md
	$(BIN)/python tests/bench/forecast.py --traces $(TRACES) --docs docs/forecasting.md $(BENCH)

.PHONY: bench-serving
bench-serving: setup ## Measure the engine (speed, memory, accuracy, batching, start) and HTTP (load, ways in), 20 minutes; writes docs/serving.md
	$(BIN)/python tests/bench/serving.py
	$(BIN)/python tests/bench/serving_http.py

.PHONY: setup
setup: $(VENV)/.synced ## Make the virtual environment (every other target does this by itself)

$(VENV)/.synced: uv.lock pyproject.toml $(wildcard */pyproject.toml) | $(UV)
	@echo "setting up the virtual environment (about 6 GB of packages on the first run)"
	$(UV) sync --frozen --all-packages --all-extras --compile-bytecode
	@touch $@

$(UV):
	@echo "bringing uv $(UV_VERSION) into .uv"
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: clean
clean: ## Remove what the build made here (caches in the home folder stay)
	rm -rf $(VENV) .uv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
