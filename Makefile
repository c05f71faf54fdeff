# make quickstart   install into .venv and run the main job end to end
# make test         install what the tests need and run them
# make test-exhaustive   the minutes-long ones
# make test-gpu     those that need a CUDA device
VENV ?= .venv
PYTHON ?= python3
PIP := $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt
BIN := $(VENV)/bin

.PHONY: quickstart test test-exhaustive test-gpu check format bench constraints clean

quickstart: $(VENV)/.installed
	$(BIN)/sft run quickstart

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not exhaustive"

test-exhaustive: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m exhaustive

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# torch by itself and first: what comes after must not pull another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

constraints: $(VENV)/.installed-dev
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
