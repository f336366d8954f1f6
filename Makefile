# One page of commands; each sets up .venv first when it has to. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
PROCESSES ?= 2

# Installed before everything else, so that no dependency chooses another build of torch. For a machine without a GPU the
# CPU build saves several GB:  make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_PIN ?= torch==2.14.1 torchvision==0.29.1
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all check lint format bundled picture lock clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.installed  ## create .venv with maskmill and everything to develop it

# The stamp is newer than both files if and only if the last installation went through. Versions come from
# constraints.txt, so that an environment made next year is the one the tests passed in; users get pyproject.toml's ranges.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"maskmill needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.11" if v < (3, 11) else 0)'
	@echo 'Setting up $(VENV); this takes some minutes and several GB, once.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH_PIN)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train]'
	touch $@

demo: setup  ## draw 400 images, label them on local Ray, score them, draw an overlay picture
	$(BIN)/maskmill demo $(DEMO)

test: setup  ## run the tests that take less than about 20 seconds each, in PROCESSES processes (2)
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(PROCESSES)

test-slow: setup  ## run the slow tests that continuous integration runs, about half an hour
	$(BIN)/python -m pytest -m "slow and not marathon" --numprocesses $(PROCESSES)

test-all: setup  ## run every test, one after another, those that take hours too
	$(BIN)/python -m pytest

check: lint test  ## everything a change has to pass: format, lint, types, tests

lint: setup  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## put the code into the one format and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bundled: setup  ## train the bundled model again (about two and a half hours on two cores); see model/bundled/MODEL_CARD.md
	$(BIN)/maskmill train bundled

picture: demo  ## paint the README's picture again
	mkdir -p docs
	cp $(DEMO)/overlay.png docs/overlay.png

# Torch and what it brings along stay out: their versions differ between CPU and CUDA builds, and TORCH_PIN decides.
lock:  ## write constraints.txt: the latest versions that pyproject.toml allows
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH_PIN)
	build/lock/bin/python -m pip install --quiet --editable '.[dev,train]'
	{ echo '# Written by `make lock`; installed by `make setup`.'; build/lock/bin/python -m pip freeze --exclude-editable \
		| grep -viE '^(torch|torchvision|triton|cuda-|nvidia-)'; } > constraints.txt
	rm -rf build/lock

clean:  ## remove the environment, the demo's files and the tools' caches
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
