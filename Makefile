# `make test` and `make demo` need only a Debian machine and root; they install what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTEST_FLAGS ?=
BIN := .venv/bin

.PHONY: help setup venv demo newcomer test unit integration kubernetes soak lint format bench image docs release clean

help:
	@echo 'make demo         show ADD, ping and DEL step by step, with FRR and a node in two network namespaces (root)'
	@echo 'make newcomer     time the way of somebody new, from git clone to the end of each tutorial (root)'
	@echo 'make test         run all tests: the unit tests, then the integration tests (root)'
	@echo 'make unit         run the tests that need neither root nor other programs'
	@echo 'make integration  run the tests with real kernels, speakers and runtimes (root)'
	@echo 'make kubernetes   run the tests of the Kubernetes API against the cluster of $$KUBECONFIG (root); see integration/README.md'
	@echo 'make soak         run the chaos tests, the storm and upgrades under load for longer, and every ExaBGP (root); see integration/README.md'
	@echo 'make lint         run ruff, mypy --strict, and import-linter for the layers'
	@echo 'make format       let ruff format the code'
	@echo 'make bench        compare the speed with the stock plugins, and write bench.json (root)'
	@echo 'make image        build the container image, localhost/bgpcni (root); deploy/build has its options'
	@echo 'make release      make wheels, source and Debian package twice, compare and test them (root); see packaging/release.py'
	@echo 'make docs         build the documentation into build/site'
	@echo 'make setup        install what the others need: Debian packages (root) and .venv'
	@echo 'make clean        remove .venv, caches and what interrupted test runs left behind'

setup:
	@scripts/setup

venv:
	@scripts/setup --python

demo: setup
	@$(BIN)/python -m integration.demo

newcomer: venv
	@$(BIN)/python -m integration.newcomer

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
soak: export BGPCNI_SPEAKER_KILLS ?= 10
soak: export BGPCNI_STORM_SEEDS ?= 1 2 3
soak: export BGPCNI_STORM_NODES ?= 10
soak: export BGPCNI_STORM_CALLS ?= 10000
soak: setup
	$(BIN)/pytest integration/test_chaos.py -v $(PYTEST_FLAGS)
	$(BIN)/pytest integration/test_restart_speaker.py -v -s $(PYTEST_FLAGS)
	$(BIN)/pytest integration/test_storm.py -v -s $(PYTEST_FLAGS)
	$(BIN)/python -m integration.storm
	$(BIN)/pytest integration/test_deploy.py -v -s -k upgrade $(PYTEST_FLAGS)
	$(BIN)/python -m integration.exabgp_versions

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	@$(BIN)/python -m integration.bench

docs: venv
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q
	@echo build/site/index.html

release:
	@scripts/setup --release
	@$(BIN)/python packaging/release.py --twice
	$(BIN)/pytest integration/packages.py -q $(PYTEST_FLAGS)

image:
	@scripts/setup --image
	@deploy/build

clean:
	@if [ -x $(BIN)/python ] && [ "$$(id -u)" = 0 ]; then $(BIN)/python -m integration.lab; fi
	rm -rf .venv .venv-bagpipe build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis bench.json bench.svg
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
