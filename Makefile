# LLMOS. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Trust what the machine trusts, also behind a proxy with a certificate authority of its own.
export UV_NATIVE_TLS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install lint fmt test test-training verify crds docs e2e e2e-all image requirements quickstart quickstart-down bench-operator bench-memory bench-routing bench-gateway bench-autoscale bench-quota bench-fairness bench-finetune clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make .venv with everything for development

$(VENV)/.installed: pyproject.toml requirements/dev.txt
	$(PYTHON) -c 'import sys; sys.exit("LLMOS needs Python >= 3.11; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

fmt: install ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install ## Style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

TEST_WORKERS ?= 2
test: install ## Unit and integration tests (real etcd and kube-apiserver; the first time it builds them)
	$(BIN)/python -m e2e.cluster binaries etcd kube-apiserver kubectl helm
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

TRAINING := .venv-training
test-training: $(TRAINING)/.installed ## Tests of what needs torch: preparing datasets, training, converting GGUF (a download of 3 GB the first time)
	$(TRAINING)/bin/python -m pytest tests/training

$(TRAINING)/.installed: $(VENV)/.installed requirements/training.txt
	$(PYTHON) -m venv --without-pip $(TRAINING)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(TRAINING)/bin/python --no-deps --require-hashes -r requirements/training.txt
	$(BIN)/uv pip install --quiet --python $(TRAINING)/bin/python --no-deps -e .
	@touch $@

verify: lint ## Lint, and fail if a generated file is not up to date
	$(BIN)/python -m llmos.crds --check
	$(BIN)/python -m llmos.crds.reference --check
	$(BIN)/python -m llmos.cli.reference --check

crds: install ## Generate CRDs and reference documentation from the API models
	$(BIN)/python -m llmos.crds
	$(BIN)/python -m llmos.crds.reference
	$(BIN)/python -m llmos.cli.reference

image: install ## Build the images (ENGINE=vllm for GPUs, vllm-cpu without)
	$(BIN)/python -m e2e.cluster build-image operator gateway worker-lite worker --engine $(or $(ENGINE),vllm-cpu)

requirements: install ## Pin the requirements anew
	requirements/compile.sh

e2e: install ## Core stories on a real cluster
	LLMOS_E2E_API_AWAY_S=$(or $(LLMOS_E2E_API_AWAY_S),15) LLMOS_E2E_OPERATOR_AWAY_S=$(or $(LLMOS_E2E_OPERATOR_AWAY_S),15) \
	  $(BIN)/python -m pytest e2e -m core --durations=0 --durations-min=5
	$(BIN)/python -m pytest e2e/test_chart.py

e2e-all: install ## All stories on a real cluster
	LLMOS_E2E_ALL=1 $(BIN)/python -m pytest e2e --ignore-glob=e2e/test_chart*.py --durations=0 --durations-min=5
	$(BIN)/python -m pytest e2e/test_chart.py
	$(BIN)/python -m pytest e2e/test_chart_policies.py

quickstart: install ## A real model answers a question, on a cluster of its own
	$(BIN)/python -m e2e.quickstart up

quickstart-down: install ## Remove what quickstart brought up
	$(BIN)/python -m e2e.quickstart down

bench-operator: install ## Measure the operator on a real kube-apiserver
	$(BIN)/python -m bench.operator --json out/bench-operator.json

bench-memory: install ## Score the memory planner on logged start-ups
	$(BIN)/python -m bench.memory --json out/bench-memory.json

bench-routing: install ## Replay a trace under the routing policies, and time a decision
	$(BIN)/python -m bench.routing --json out/bench-routing.json

bench-gateway: install ## Measure what the gateway costs, beside other routers (needs wrk)
	$(BIN)/python -m bench.gateway --json out/bench-gateway.json

TRACES := bench/autoscale/data
SEEDS ?= 1
bench-autoscale: install ## Simulate autoscaling policies on three traces (about an hour for each of SEEDS=1)
	$(BIN)/python -m bench.autoscale --trace $(TRACES)/azure_2023_conv.csv --rate-scale 5 --seeds $(SEEDS) \
	  --json out/bench-autoscale-conv.json --plots out/bench-autoscale
	$(BIN)/python -m bench.autoscale --trace $(TRACES)/mooncake_conversation.jsonl --format mooncake --rate-scale 2 \
	  --gpu h100 --ttft 10 --tpot 0.1 --seeds $(SEEDS) --json out/bench-autoscale-mooncake.json --plots out/bench-autoscale
	$(BIN)/python -m bench.autoscale --trace $(TRACES)/azure_2023_code.csv --rate-scale 3 --seeds $(SEEDS) \
	  --json out/bench-autoscale-code.json --plots out/bench-autoscale

bench-quota: install ## Measure the quota ledger on demand shaped like Kueue's baseline
	$(BIN)/python -m bench.quota --json out/bench-quota.json

bench-fairness: install ## Simulate tenants that share a busy pool
	$(BIN)/python -m bench.fairness --json out/bench-fairness.json

bench-finetune: $(TRAINING)/.installed ## Measure the dataset gate (needs what test-training needs)
	$(TRAINING)/bin/python -m bench.finetune gate --json out/bench-finetune-gate.json

clean: ## Remove what can be made again
	rm -rf $(VENV) $(TRAINING) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
