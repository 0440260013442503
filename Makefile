# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`. Everything is installed into .venv.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
KERNEL_SOURCES := setup.py $(wildcard slimctr/native/*.c slimctr/native/*.h)

.PHONY: help demo test quick test-isa install check unit reproduce bench-engine bench-serving bench-memory bench-hostile bench-training clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: .venv/.demo  ## train, compress, serve and compare on real clicks; ARGS=--exit ends after the table
	$(BIN)/slimctr quickstart $(ARGS)

test: .venv/.test  ## install what the tests need, then run every check and test
	@bash tests/system_packages.sh
	@$(MAKE) --no-print-directory check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m alone

QUICK := tests/unit tests/property tests/docs tests/hostile tests/golden
quick: .venv/.test  ## checks and the tests that neither train a model for long nor start a service: two minutes
	@$(MAKE) --no-print-directory check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not alone and not slow" $(or $(ARGS),$(QUICK))

test-isa: .venv/.test  ## the tests under each instruction set of this machine; takes half an hour
	tests/instruction_sets.sh $(ARGS)

install: .venv/.test  ## everything for development into .venv

check: .venv/.test  ## lint, formatting, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: .venv/.test  ## the tests alone; ARGS go to pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(ARGS)

PLAN ?= full
REPORT ?= docs/results/compression.md
reproduce: .venv/.test  ## measure every figure of docs/results/compression.md again; PLAN=small takes a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compression run --plan $(PLAN) $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compression speed --plan $(PLAN)
	$(BIN)/python -m benchmarks.compression tables --plan $(PLAN) $(if $(filter full,$(PLAN)),--report $(REPORT))

bench-engine: .venv/.bench  ## time the engine beside torch and FBGEMM, write docs/results/engine.md; takes ten minutes
	$(BIN)/python -m benchmarks.engine $(ARGS)

.venv/.bench: .venv/.test
	@# It names no torch of its own and takes the one that is there; without it the comparison leaves it out.
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -c constraints.txt fbgemm-gpu-cpu
	@touch $@

ROUNDS ?= 3
bench-serving: .venv/.test  ## measure docs/results/serving.md again (needs wrk, two cores, twenty minutes)
	for round in $$(seq $(ROUNDS)); do $(BIN)/python -m benchmarks.serving run --round $$round $(ARGS) || exit 1; done
	$(BIN)/python -m benchmarks.serving turns
	$(BIN)/python -m benchmarks.serving report

bench-memory: .venv/.test  ## memory, start and unload of the service with 1 and 10 million ids; about 15 minutes
	$(BIN)/python -m benchmarks.memory $(ARGS)

bench-hostile: .venv/.test  ## how long /livez takes while clients misbehave; a minute, needs the store of the demo
	$(BIN)/python -m benchmarks.hostile_clients $(ARGS)

bench-training: .venv/.test  ## default training beside a logistic regression, write docs/results/training.md; half an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.training quality $(ARGS)
	$(BIN)/python -m benchmarks.training report

.venv/.base: constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "slimctr needs Python 3.11 or newer: make PYTHON=..."'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt | cut -d+ -f1)"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt setuptools
	@# The kernels are plain C: without a compiler on the machine, the ziglang wheel brings one.
	command -v $${CC:-cc} >/dev/null || $(BIN)/pip install -q --disable-pip-version-check ziglang
	@touch $@

.venv/.demo: .venv/.base pyproject.toml $(KERNEL_SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[service,dashboard,train]'
	@touch $@

.venv/.test: .venv/.base pyproject.toml $(KERNEL_SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[service,dashboard,train,loadtest,dev]'
	@touch $@ .venv/.demo

clean:  ## remove what the demo made
	rm -rf quickstart models state
