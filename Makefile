# make demo: install and train the quickstart; make test: install what tests need and run them all;
# make fidelity: compare everything with PyTorch, which it installs; make soak: put FAULTS faults into runs.
PYTHON ?= python3
VENV ?= .venv
FAULTS ?= 300
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

export JAX_PLATFORMS ?= cpu

.PHONY: demo test lint fidelity soak

demo: $(VENV)/installed
	$(BIN)/python -m resnet_flax.main --config=configs/quickstart.py --workdir=runs/demo

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest

fidelity: $(VENV)/installed-reference
	$(BIN)/python -m benchmarks.fidelity

soak: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.soak --faults=$(FAULTS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/installed-reference: $(VENV)/installed-dev
	$(PIP) --editable '.[dev,reference]'
	touch $@
