# make quickstart   install into .venv and run the main job end to end
# make test         install what the tests need and run them, in twelve minutes on two cores
# make test-fast    units, configurations and architecture, in under a minute: at each save
# make test-long    those that take tens of seconds each; make test-exhaustive: minutes
# make fuzz         inputs that break a parser, ten minutes for each
# make test-gpu     those that need a CUDA device
# make lock         what the image and CI install, with hashes; make audit   what is known against its versions
# make gpu-report   what is proved on CPUs, looked at on the GPU that is here, in eight minutes
# make docs         the docs as a site, in build/site
# make dist         sdist and wheel; make release-check   install and run them as a user would
# make test-lowest, test-highest   what depends on versions of other packages, with the lowest and the newest of them
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP := $(VENV)/bin/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))
BIN := $(VENV)/bin
PARALLEL = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# With its bounds: without constraints, the newest torch may be newer than what we take.
TORCH := $(shell sed -n 's/^  "\(torch[<>=].*\)",/\1/p' pyproject.toml)

.PHONY: quickstart test test-fast test-long test-exhaustive fuzz test-gpu gpu-report test-lowest test-highest test-versions check format bench docs
.PHONY: constraints constraints-lowest lock audit dist release-check clean

quickstart: $(VENV)/.installed
	$(BIN)/sft run quickstart

test: $(VENV)/.installed-dev
	$(PARALLEL) -m "not long and not exhaustive"

test-long: $(VENV)/.installed-dev
	$(PARALLEL) -m "long and not exhaustive"

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not exhaustive" tests/unit tests/config tests/architecture

test-exhaustive: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m exhaustive

fuzz: $(VENV)/.installed-dev
	SFT_FUZZ_SECONDS=600 $(BIN)/python -m pytest --timeout 1200 -n auto tests/fuzz

gpu-report: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/gpu_report.py

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

test-lowest:
	$(MAKE) test-versions VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

test-highest:
	$(MAKE) test-versions VENV=.venv-highest CONSTRAINTS=

test-versions: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not exhaustive" tests/unit tests/config tests/contract tests/architecture \
	  tests/e2e/test_quickstart.py::test_a_model_that_knew_nothing_spells_numbers

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

# In strict mode: a link that leads nowhere is an error. (The variable: no advertisement of other tools.)
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# docs/releasing.md
dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*

release-check: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/e2e/test_release.py

# torch by itself and first: what comes after must not pull another build of it. HASHED=ci.lock, as in CI: everything else
# by the sha256 of its file.
HASHED ?=
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) $(HASHED)
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some minutes without a word, most of them for torch"
	$(PIP) '$(TORCH)'
ifneq ($(HASHED),)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r build.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --no-build-isolation -r $(HASHED)
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
else
	$(PIP) --editable .
endif
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
ifeq ($(HASHED),)
	$(PIP) --editable '.[dev]'
endif
	touch $@

constraints: $(VENV)/.installed-dev
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

# What a build of torch brings along (CUDA's libraries) is left to that build.
constraints-lowest: $(VENV)/.installed-dev
	{ sed -n '/^#/p' constraints-lowest.txt; \
	  $(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --resolution lowest-direct \
	    --extra dev pyproject.toml | grep -vE '^(nvidia|cuda|triton)'; } > constraints.new
	mv constraints.new constraints-lowest.txt

# For the image (Containerfile): Linux on x86-64, Python 3.11; build.lock has what builds sft, and what comes as source.
LOCK ?= requirements.lock
EXTRAS ?= kfp,kubeflow,sbom
TORCH_INDEX_URL ?=
comma := ,
COMPILE := uv pip compile --quiet --generate-hashes --no-header --annotation-style line --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --constraint constraints.txt
lock: $(VENV)/.installed-dev
	$(BIN)/$(COMPILE) $(addprefix --extra ,$(subst $(comma), ,$(EXTRAS))) \
	  $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL) --index-strategy unsafe-best-match) \
	  --output-file $(LOCK).new pyproject.toml
	$(BIN)/$(COMPILE) --extra dev pyproject.toml | awk '/^[^ ]/{own = !/^(torch|triton|nvidia-.*|cuda-.*)==/} own' > ci.lock.new
	printf 'hatchling\nsetuptools\nwheel\n' | $(BIN)/$(COMPILE) --output-file build.lock.new -
	for file in $(LOCK) build.lock ci.lock; do \
	  { echo '# Written by `make lock`: for the image (Containerfile), or, ci.lock, for CI.'; cat $$file.new; } > $$file; \
	  rm $$file.new; \
	done

# Asks PyPI's database of advisories; no package ships one that is kept up to date. Strict: what it could not ask about
# counts as a failure.
audit: $(VENV)/.installed-dev
	for file in requirements.lock build.lock ci.lock; do \
	  $(BIN)/uv tool run pip-audit==2.10.1 --requirement $$file --require-hashes --disable-pip --strict \
	    --progress-spinner off || \
	  { echo "make audit: $$file: a version with a known weakness, or no way to pypi.org, as said above" >&2; exit 1; }; \
	done

clean:
	rm -rf $(VENV) .venv-lowest .venv-highest .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
