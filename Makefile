# `make setup` once; every other target does that by itself when it is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Kernels are compiled by one process before the test workers start, or each would do it.
WARM_UP := from gamp_theory import AttentionModel, GeneralModel, solve; \
	solve(AttentionModel.mixture(), alpha=1.25, lam=0.01, start="semantic", on_failure="return"); \
	solve(GeneralModel.from_pair(AttentionModel.mixture()), alpha=1.5, lam=0.1, start="positional", \
	tol=0.1, on_failure="return")

.PHONY: setup demo test test-slow lint format bench validate clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m gamp_theory demo --out demo

# Two workers on two cores: a BLAS that starts threads of its own would only get in their way.
test test-slow: export OPENBLAS_NUM_THREADS = 1

# pytest-benchmark, where it is installed, warns beside xdist; warnings are errors here.
test: setup
	$(BIN)/python -c '$(WARM_UP)'
	$(BIN)/python -m pytest -n 2 -p no:benchmark -m "not slow"

test-slow: setup
	$(BIN)/python -c '$(WARM_UP)'
	$(BIN)/python -m pytest -n 2 -p no:benchmark -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p gamp_theory

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-dev
	$(BIN)/python -m pytest benchmarks

validate: setup
	$(BIN)/python -m validation

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
