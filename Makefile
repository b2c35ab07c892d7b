# `make` alone lists the targets. Each target sets up by itself what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOORS := .venv-floors
FLOORS_BUT_TORCH := .venv-floors-but-torch
AUDIT := .venv-audit
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# What meets other libraries most: commands, and files of all kinds.
AT_FLOORS := $(addprefix tests/test_,cli*.py images.py fuzz_images.py masks.py annotations.py \
	formats.py rle.py polygons.py refinement.py overlay.py checkpoints.py export.py)

.PHONY: help install lint format test test-fast fuzz test-floors test-floors-but-torch audit \
	browser-test ray-test demo clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/installed  ## make .venv with samtune and the extras

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

lint: install  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## rewrite the files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install  ## run the whole suite
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: install  ## run what needs no real weights and takes seconds
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

fuzz: install  ## look for faults with about 50,000 new cases of hostile input, half an hour
	HYPOTHESIS_PROFILE=new FUZZ_FACTOR=16 $(BIN)/python -m pytest $(PARALLEL) tests/test_fuzz_*.py tests/test_hostile_adapters.py

test-floors: $(FLOORS)/installed  ## run the fast tests with the oldest dependencies allowed
	$(FLOORS)/bin/python -m pytest $(PARALLEL) -m "not slow" --ignore tests/test_licences.py

$(FLOORS)/installed: pyproject.toml constraints-floors.txt
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --constraint constraints-floors.txt --editable '.[dev]'
	touch $@

test-floors-but-torch: $(FLOORS_BUT_TORCH)/installed  ## run those of commands and files so, but with our torch, as CI does
	$(FLOORS_BUT_TORCH)/bin/python -m pytest $(PARALLEL) -m "not slow" $(AT_FLOORS)

$(FLOORS_BUT_TORCH)/installed: pyproject.toml constraints.txt constraints-floors.txt
	$(PYTHON) -m venv $(FLOORS_BUT_TORCH)
	grep -v '^torch==' constraints-floors.txt | cat constraints.txt - > $(FLOORS_BUT_TORCH)/constraints.txt
	$(FLOORS_BUT_TORCH)/bin/python -m pip install --quiet --constraint $(FLOORS_BUT_TORCH)/constraints.txt --editable '.[dev]'
	touch $@

audit: install $(AUDIT)/installed  ## ask whether an installed package has a known vulnerability
	$(AUDIT)/bin/python .ci/audit $(VENV) $(AUDIT)

$(AUDIT)/installed: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit==2.10.1
	touch $@

browser-test: install  ## drive the exported page in Chromium (apt-get install chromium npm)
	SAMTUNE_BROWSER_TESTS=1 $(BIN)/python -m pytest tests/test_browser.py tests/test_report_browser.py

ray-test: install  ## segment on a Ray cluster of this machine, and kill a worker
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest tests/test_ray.py

demo: install  ## fit, evaluate and segment on the example task, from nothing
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

clean:  ## remove what the targets made
	rm -rf $(VENV) $(FLOORS) $(FLOORS_BUT_TORCH) $(AUDIT) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info demo-output
