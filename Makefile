# `make test` and `make demo` need nothing but a Debian machine and root; they install what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTEST_FLAGS ?=
BIN := .venv/bin

.PHONY: help setup venv demo test unit integration kubernetes soak lint format bench image clean

help:
	@echo 'make demo         FRR and a node in two network namespaces; ADD, ping, DEL, step by step'
	@echo 'make test         all tests: unit, then integration (root)'
	@echo 'make unit         the tests that need neither root nor other programs'
	@echo 'make integration  the tests with the real parts (root)'
	@echo 'make kubernetes   the tests of the Kubernetes API against the cluster of $$KUBECONFIG (root); see integration/README.md'
	@echo 'make soak         chaos and upgrades for longer (root); see integration/README.md'
	@echo 'make lint         ruff and mypy --strict'
	@echo 'make format       let ruff format the code'
	@echo 'make bench        ratios against the stock plugins, bench.json (root)'
	@echo 'make image        the container image, localhost/bgpcni (root); deploy/build has its options'
	@echo 'make setup        only what the others do first: packages (root) and .venv'
	@echo 'make clean        remove .venv, caches and what dead test runs left behind'

setup:
	@scripts/setup

venv:
	@scripts/setup --python

demo: setup
	@$(BIN)/python -m integration.demo

test: setup
	$(BIN)/pytest tests -n auto $(PYTEST_FLAGS)
	$(BIN)/pytest integration -n 4 --dist loadfile --durations=40 $(PYTEST_FLAGS)

unit: venv
	$(BIN)/pytest tests -n auto $(PYTEST_FLAGS)

integration: setup
	$(BIN)/pytest integration -n 4 --dist loadfile --durations=40 $(PYTEST_FLAGS)

kubernetes: setup
	@[ -n "$${KUBECONFIG:-}" ] || { echo 'make kubernetes: KUBECONFIG names no cluster' >&2; exit 1; }
	BGPCNI_KUBECONFIG=$$KUBECONFIG $(BIN)/pytest integration/test_kubernetes_agent.py integration/test_kubernetes_kubectl.py -v $(PYTEST_FLAGS)

soak: export BGPCNI_CHAOS_SEEDS ?= 1 2 3 4 5 6 7 8 9 10
soak: export BGPCNI_CHAOS_ROUNDS ?= 12
soak: export BGPCNI_ROLLS ?= 20
soak: setup
	$(BIN)/pytest integration/test_chaos.py -v $(PYTEST_FLAGS)
	$(BIN)/pytest integration/test_deploy.py -v -s -k upgrade $(PYTEST_FLAGS)

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	@$(BIN)/python -m integration.bench

image:
	@scripts/setup --image
	@deploy/build

clean:
	@if [ -x $(BIN)/python ] && [ "$$(id -u)" = 0 ]; then $(BIN)/python -m integration.lab; fi
	rm -rf .venv .venv-bagpipe build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis bench.json bench.svg
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
