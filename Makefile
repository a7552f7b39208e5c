# The commands of this project. `make help` lists them.
PYTHON ?= python3
# Where torch comes from, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu for the small build without CUDA.
TORCH_INDEX ?=
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PIP = $(INSTALL) -c constraints.txt
# `make versions`: which interpreters, those that are there; which versions of torch, the lowest and the newest.
PYTHONS ?= python3.11 python3.13
TORCHES ?= 2.8.0 2.13.0
STAMPS := $(VENV)/.stamps

.DEFAULT_GOAL := help
.PHONY: help demo demo-2 test peers integrations docs figures look clean
.PHONY: versions one-version coverage mutations typos lock release-check history

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 15

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=5 -m processes

peers: $(STAMPS)/train ## install the packages that benchmarks/ measures beside matfn
	$(PIP) -e '.[peers]'
	$(PIP) --no-deps gram-newton-schulz

integrations: $(STAMPS)/train ## install the frameworks of docs/integrations.md
	$(PIP) -e '.[integrations]'

docs: $(STAMPS)/docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

figures: $(STAMPS)/train ## draw the figures of docs/ anew
	$(BIN)/python docs/figures.py

look: docs ## by hand: look at the built site in headless Chromium
	$(BIN)/python docs/look.py site

versions: ## by hand: the tests marked `versions`, lowest and newest torch and Python (GBs of torch)
	@for python in $(PYTHONS); do \
		command -v $$python > /dev/null || { echo "$$python is not installed: left out"; continue; }; \
		for torch in $(TORCHES); do \
			$(MAKE) --no-print-directory one-version PYTHON=$$python TORCH=$$torch || exit 1; \
		done; \
	done

one-version: VENV = .versions/$(notdir $(PYTHON))-torch-$(TORCH)
one-version:
	@echo "== $(PYTHON), torch $(TORCH)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==$(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(INSTALL) numpy mpmath filelock scipy 'pytest>=9' pytest-timeout hypothesis 'hatchling>=1.26' editables
	$(INSTALL) --no-deps --no-build-isolation -e .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m versions

coverage: $(STAMPS)/house ## by hand: lines of the core that tests run, with a floor for each room (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -q -n 2 tests/unit tests/contract tests/optim
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .coverage.json
	$(BIN)/python scripts/coverage_floors.py .coverage.json

mutations: $(STAMPS)/dev ## by hand: small changes of the core that no test sees (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutations.py

typos: $(STAMPS)/house ## by hand: misspelled words
	$(BIN)/typos

lock: $(STAMPS)/house ## by hand: write requirements/test.txt anew, after pyproject.toml or constraints.txt changed
	$(BIN)/uv pip compile pyproject.toml --extra train --extra dev --constraints constraints.txt --excludes requirements/not_locked.txt \
		--universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--quiet --output-file requirements/test.txt

release-check: $(STAMPS)/house ## by hand: build the release twice, install it beside torch alone, run README's snippets (3 minutes)
	$(BIN)/python scripts/release_check.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

history: $(STAMPS)/train ## by hand: append the benchmarks in docs/results to their history, and draw it
	$(BIN)/python -m benchmarks.history

clean: ## remove what make and the tools made, the environment included; runs/ stays
	rm -rf $(VENV) .versions site dist build .pytest_cache .ruff_cache .hypothesis .coverage*
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

# All but torch and what torch asks for is checked by its hash. The package itself is built by the hatchling just installed.
$(STAMPS)/dev: $(STAMPS)/torch pyproject.toml requirements/test.txt
	$(INSTALL) --no-deps --require-hashes -r requirements/test.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@ $(STAMPS)/train

$(STAMPS)/house: $(STAMPS)/dev
	$(PIP) -e '.[house]'
	@touch $@

$(STAMPS)/docs: $(STAMPS)/torch pyproject.toml
	$(PIP) -e '.[docs]'
	@touch $@
