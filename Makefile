# Everything a person or CI does here. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
# 1: with torch (about 5 GB, fetched once). `make test` has it on, `make demo` off by default.
TORCH ?=
# More arguments for pytest: make test ARGS="tests/node -k lease"
ARGS ?=
# How many tests run at once: most wait for processes and clocks.
# WORKERS=0 runs them one after another, in pytest's own process (for --pdb and the like).
WORKERS ?= 2
PYTEST_ON_WORKERS := $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: bench-execution help setup demo test check format program program-verify program-test soak bench bench-settlement bench-peers bench-book simulate lock clean torch engine

help:  ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready  ## make .venv ready: system packages (as root), locked Python packages

.venv/.ready: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh

demo: setup  ## one real job, end to end, on a local world (TORCH=1: on torch)
	@TORCH=$(or $(TORCH),0) $(PYTHON) examples/demo.py

# The jobs' base runtime with torch that the tests marked torch run on; kept between calls.
TORCH_HOME := $(CURDIR)/.cache/torch
torch: .cache/torch/.ready  ## fetch torch for the tests (about 5 GB, once)

.cache/torch/.ready: scripts/torch.sh | .venv/.ready
	@scripts/torch.sh $(TORCH_HOME)

# A container engine for the tests of containers, where one can be had; else they are skipped.
engine:  ## bring Podman for the tests of containers, where root may
	@scripts/engine.sh

# ROBOCOMPUTE_TEST_RUNTIME: a folder with a runtime `base` that has torch, used instead.
ifeq ($(TORCH),0)
test: setup engine  ## run all tests (TORCH=0: leave the torch ones out; WORKERS=n; ARGS="...": for pytest)
	@echo "test: TORCH=0, so the tests marked torch are left out"
	$(PYTEST_ON_WORKERS) -m "not soak and not device and not torch" $(ARGS)
else
test: setup engine $(if $(ROBOCOMPUTE_TEST_RUNTIME),,torch)
	ROBOCOMPUTE_TEST_RUNTIME=$(or $(ROBOCOMPUTE_TEST_RUNTIME),$(TORCH_HOME)/runtimes) \
		$(PYTEST_ON_WORKERS) $(ARGS)
endif

check: setup  ## lint, format, types, arrows, lock, documentation
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	.venv/bin/lint-imports
	scripts/lock.sh --check
	$(PYTHON) -m pytest -q tests/repo

format: setup  ## put every file into the house format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

program:  ## build the Solana program from its sources (fetches the toolchain once)
	scripts/program/build.sh

program-verify:  ## prove that the committed program is what the sources give
	scripts/program/verify.sh

program-test:  ## run the Rust tests: the program's rules, and the committed program on a chain
	scripts/program/setup.sh
	cd programs/settlement && cargo test --quiet --locked -p robocompute-settlement-interface
	cd programs/settlement/tests && CARGO_TARGET_DIR=../target/tests cargo test --quiet --locked

soak: setup  ## long attacks, kill loops and soaks (not part of `make test`)
	$(PYTHON) -m pytest -m soak --timeout 3600 $(ARGS)

bench: setup  ## submit to first output line, against ray on the same machine
	$(PYTHON) bench/dispatch.py

bench-settlement: setup  ## units, lamports, vouchers and settlements a second (ROBOCOMPUTE_VALIDATOR=PATH too)
	$(PYTHON) bench/settlement.py

bench-peers: setup  ## the peer-to-peer shell against go-libp2p (QUICK=1: a look; without go only ours)
	$(PYTHON) bench/p2p.py $(if $(QUICK),--quick)

bench-book: setup  ## the offer book with 50,000 offers: memory, taking, look-up, flood
	$(PYTHON) bench/book.py

simulate: setup  ## a market of 10,000 nodes on virtual time, a fifth of them liars
	$(PYTHON) bench/simulate.py

bench-execution: setup  ## what sandboxes and containers cost beside raw python
	$(PYTHON) bench/execution.py

lock: setup  ## resolve pyproject.toml into requirements.lock (UPGRADE=1: the newest of everything)
	scripts/lock.sh $(if $(UPGRADE),--upgrade)

clean:  ## remove what the other targets made
	rm -rf .venv .cache .localnet .demo chisel-out dist build .pytest_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache programs/settlement/target
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
