# Everything from a bare machine: `make benchmark` runs the main job, `make test` checks the project.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help benchmark test lint types install install-test wheel clean

help:
	@echo "make benchmark   install and run the main job on digits (report in out/digits)"
	@echo "make test        install, lint, type-check and run the tests"
	@echo "make wheel       build the sdist and the wheel into dist/"
	@echo "make clean       remove the virtual environment and everything built"

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(BIN)/.installed-test: $(BIN)/.installed peers.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	$(BIN)/python -m pip install -q --no-deps -r peers.txt
	@touch $@

install: $(BIN)/.installed

install-test: $(BIN)/.installed-test

benchmark: install
	$(BIN)/robustsnn benchmark --out out/digits

lint: install-test
	$(BIN)/ruff check robustsnn tests benchmarks examples
	$(BIN)/ruff format --check robustsnn tests benchmarks examples

types: install-test
	$(BIN)/mypy

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

wheel: install-test
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist *.egg-info out
