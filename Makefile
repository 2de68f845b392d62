# Requires Python 3.11, 3.12 or 3.13 and a package index.

in_range = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
    $$python -c '$(in_range)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-all mutants docs reference wheel torture check format seeds advice benchmark benchmark-accelerator check-accelerators clean
.DEFAULT_GOAL := train

train: $(VENV)/.installed
	$(BIN)/mnist-jax train

# One quick test of each promise, with fixed examples in a fixed order.
PYTEST = $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile
test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow" -p no:randomly

# All tests, with random examples in a random order that SEED repeats. ONLY="-m slow" runs those that
# `make test` skips.
SEED := $(or $(SEED),$(shell od -An -N3 -tu4 /dev/urandom | tr -d ' '))
test-all: $(VENV)/.installed-dev
	@echo "to repeat this run: make test-all SEED=$(SEED)"
	$(PYTEST) $(ONLY) --randomly-seed=$(SEED) --hypothesis-profile=drawn --hypothesis-seed=$(SEED)

# Changes one expression of the core at a time and lists the changes that `make test` does not detect.
mutants: $(VENV)/.installed-test
	$(BIN)/python tests/mutants.py --seed $(SEED)

# Builds the pages of docs/ in build/docs.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

# Rewrites docs/commands.md and docs/api.md from the code.
reference: $(VENV)/.installed
	$(BIN)/python docs/reference.py

# Builds the wheel and the sdist in dist/ and checks them as PyPI does.
wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

# Kills a small training run N times, resumes it each time, and compares every bit. Takes an hour.
N ?= 1000
torture: $(VENV)/.installed-test
	@$(BIN)/python tests/faults/torture.py --kills $(N)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python tests/prose.py
	$(BIN)/python docs/reference.py --check
	$(BIN)/python benchmarks/quick.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The accuracies in README and docs/performance.md. Takes forty minutes, most of them for the accurate recipe.
seeds: $(VENV)/.installed
	$(BIN)/mnist-jax population --seeds 10
	$(BIN)/mnist-jax population --seeds 10 --precision bfloat16 --workdir runs/bfloat16 \
	    --against runs/default-population
	$(BIN)/mnist-jax population --config fast --seeds 30
	$(BIN)/mnist-jax population --config accurate --seeds 5

# The table in docs/laboratory.md: single changes to the reference recipe, five seeds each.
advice: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/advice.py

# The times in README. Takes half an hour on an otherwise idle machine.
benchmark: $(VENV)/.installed-benchmarks
	$(BIN)/python benchmarks/epochs.py
	$(BIN)/python benchmarks/epochs.py --recipe fast
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/conv.py

# The tables in docs/accelerators.md that need a GPU or a TPU: recipes, a population, a step's lower bound.
benchmark-accelerator: $(VENV)/.installed
	@$(BIN)/python benchmarks/accelerator.py --json runs/benchmark/accelerator.json

# The tables in benchmarks/README.md that need no accelerator: every program of every recipe, compiled for
# TPUs and GPUs by the newest compilers, and for a v5e by Colab's. Takes more than an hour.
ahead = $(VENV)-$(1)/bin/python benchmarks/ahead.py --json runs/benchmark/$(2).json
check-accelerators: $(VENV)-ahead/.installed $(VENV)-colab/.installed
	$(call ahead,ahead,ahead) --programs train evaluate predict population
	$(call ahead,ahead,precisions) --recipes default fast --precisions tensorfloat32 bfloat16
	$(call ahead,colab,colab) --targets v5e --programs train evaluate predict population

clean:
	rm -rf $(VENV) $(VENV)-ahead $(VENV)-colab build dist

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; \
	install one, or name it: make PYTHON=/path/to/python3.13" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# A stamp is written after its step succeeds, so an interrupted step is repeated.
# The extras that the last lines of `train` propose: a report and a page to draw on.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "installing JAX, Flax and what they need into $(VENV): about a gigabyte, some minutes"
	$(BIN)/python -m pip install --quiet --editable ".[report,serve]"
	touch $@

# The tests need neither Sphinx nor the linters.
$(VENV)/.installed-test: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed-test $(VENV)/.installed

# The compilers of accelerators have environments of their own: JAX would look for their devices in others.
$(VENV)-ahead/.installed: PACKAGES = ".[ahead]"
$(VENV)-colab/.installed: PACKAGES = . --requirement .ci/colab.txt libtpu==0.0.23
$(VENV)-ahead/.installed $(VENV)-colab/.installed: pyproject.toml .ci/colab.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable $(PACKAGES)
	touch $@

# PyTorch downloads gigabytes of CUDA unless its CPU build is already installed.
$(VENV)/.installed-benchmarks: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	touch $@ $(VENV)/.installed
