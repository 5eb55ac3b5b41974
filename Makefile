# Thin: every recipe is a line of the README's "By hand" section. Windows: use those lines.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Compiling what is installed would take most of the time; Python does it for what it imports.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
STAMPS := $(VENV)/.fedhive
FILES  := pyproject.toml constraints.txt

# The CPU build by its exact name, so that pip can never pick one with CUDA libraries instead.
# Only Linux has two builds under one version. For a GPU: make demo TORCH=torch TORCH_INDEX=
VERSION     := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH       ?= torch==$(VERSION)$(if $(filter Linux,$(shell uname -s)),+cpu)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

demo: $(STAMPS)/core  ## train on real digits, print the result and where the report is
	$(BIN)/fedhive run experiment=quickstart

# A worker for each core; a slow file does not hold up the others. For one process: make test JOBS=0
JOBS ?= logical
test: $(STAMPS)/test  ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

lint: $(STAMPS)/dev  ## ruff, its formatter, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMPS)/docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the environment and everything built, never a run
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fedhive needs Python 3.11 or newer, this is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt-get install -y python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# torch first and alone, without its dependencies: a torch already there is kept, and an index
# that cannot be reached costs one failed look-up, not one for every package.
$(STAMPS)/torch: $(STAMPS)/venv constraints.txt
	@echo "installing $(TORCH) into $(VENV)"
	@$(PIP) --no-deps -c constraints.txt $(if $(TORCH_INDEX),--retries 0 --timeout 20 --extra-index-url $(TORCH_INDEX)) '$(TORCH)' || \
	  { echo "No '$(TORCH)' here. Any build will do: make demo TORCH=torch (a GPU build is several GB)" >&2; exit 1; }
	@touch $@

$(STAMPS)/core: $(STAMPS)/torch $(FILES)
	@echo "installing fedhive and what it needs"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(STAMPS)/%: $(STAMPS)/torch $(FILES)
	@echo "installing fedhive with what its extra \"$*\" needs"
	@$(PIP) -c constraints.txt -e '.[$*]'
	@touch $@
