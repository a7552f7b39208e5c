# The commands of this project. `make help` lists them.
PYTHON ?= python3
# Where torch comes from, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu for the small build without CUDA.
TORCH_INDEX ?=
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMPS := $(VENV)/.stamps

.DEFAULT_GOAL := help
.PHONY: help demo demo-2 test peers docs clean

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(STAMPS)/train ## install what is needed, compare three optimizers on real text (3 minutes at most on 2 cores)
	$(BIN)/matfn compare recipes/demo.toml

demo-2: $(STAMPS)/train ## the same comparison on two processes, each with one thread and half of every batch
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 -m matfn_main \
		compare recipes/demo.toml --set parallel.kind=ddp --set train.threads=1

test: $(STAMPS)/dev ## lint, types, tests (two at a time, one thread each), then tests of up to four processes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=5 -m "not processes"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=5 -m processes

peers: $(STAMPS)/train ## install the packages that benchmarks/ measures beside matfn
	$(PIP) -e '.[peers]'
	$(PIP) --no-deps gram-newton-schulz

docs: $(STAMPS)/docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## remove what make and the tools made, the environment included; runs/ stays
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: its wheels may come from another index than the rest.
$(STAMPS)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(BIN)/python -c 'import torch; print("Hint: this torch was built for CUDA and no GPU is seen here; make clean, then TORCH_INDEX=https://download.pytorch.org/whl/cpu make ... is 10 times smaller." if torch.version.cuda and not torch.cuda.is_available() else f"torch {torch.__version__}")'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/train: $(STAMPS)/torch pyproject.toml
	$(PIP) -e '.[train]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/torch pyproject.toml
	$(PIP) -e '.[train,dev]'
	@touch $@ $(STAMPS)/train

$(STAMPS)/docs: $(STAMPS)/torch pyproject.toml
	$(PIP) -e '.[docs]'
	@touch $@
