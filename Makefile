# make demo: install, and train the quickstart
# make check: style, types and the quick tests, in about a minute once installed; make test: all tests
# make fidelity: compare everything with PyTorch, which it installs; make soak: put FAULTS faults into runs
# WORKERS=4 runs the tests in so many processes, each of which needs up to 3 GB of memory
# PYTHON=python3.13 chooses another Python when the environment VENV is created.
PYTHON ?= python3
VENV ?= .venv
FAULTS ?= 300
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
QUICK_TESTS := $(filter-out tests/test_main.py tests/test_fidelity.py, $(wildcard tests/test_*.py)) \
  tests/config tests/optim tests/models/test_networks.py tests/studies/test_space.py
UNSUPPORTED := Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is %d.%d: name another, such as PYTHON=python3.13

export JAX_PLATFORMS ?= cpu

.PHONY: demo check test lint fidelity soak

demo: $(VENV)/installed
	$(BIN)/python -m resnet_flax.main --config=configs/quickstart.py --workdir=runs/demo

check: lint
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) $(QUICK_TESTS)

test: lint
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

fidelity: $(VENV)/installed-reference
	$(BIN)/python -m benchmarks.fidelity

soak: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks.soak --faults=$(FAULTS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else "error: $(UNSUPPORTED)" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/installed-reference: $(VENV)/installed-dev
	$(PIP) --editable '.[dev,reference]'
	touch $@
