# `make train` and `make test` need Python 3.11, 3.12 or 3.13 and a package index, nothing else.

in_range = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
    $$python -c '$(in_range)' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-all mutants docs torture check format seeds advice benchmark benchmark-accelerator check-accelerators clean
.DEFAULT_GOAL := train

train: $(VENV)/.installed
	$(BIN)/mnist-jax train

# The promises, each once: the same tests with the same examples in the same order, on all cores.
PYTEST = $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile
test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow" -p no:randomly

# All tests; the order in each file and the examples are drawn, and SEED repeats them. ONLY="-m slow" are
# those that `make test` leaves out.
SEED := $(or $(SEED),$(shell od -An -N3 -tu4 /dev/urandom | tr -d ' '))
test-all: $(VENV)/.installed-dev
	@echo "to repeat it: make test-all SEED=$(SEED)"
	$(PYTEST) $(ONLY) --randomly-seed=$(SEED) --hypothesis-profile=drawn --hypothesis-seed=$(SEED)

# Changes one expression of the core at a time, and counts the changes that `make test` does not notice.
mutants: $(VENV)/.installed-test
	$(BIN)/python tests/mutants.py --seed $(SEED)

# The pages of docs/, into build/docs.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

# Kills a small training N times, continues it each time, and compares every bit. An hour.
N ?= 1000
torture: $(VENV)/.installed-test
	@$(BIN)/python tests/faults/torture.py --kills $(N)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python benchmarks/quick.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The accuracies of the README and of docs/performance.md. Forty minutes, most of it for the accurate
# recipe.
seeds: $(VENV)/.installed
	$(BIN)/mnist-jax population --seeds 10
	$(BIN)/mnist-jax population --seeds 10 --precision bfloat16 --workdir runs/bfloat16 \
	    --against runs/default-population
	$(BIN)/mnist-jax population --config configs/fast.py --seeds 30
	$(BIN)/mnist-jax population --config configs/accurate.py --seeds 5

# The table of docs/laboratory.md: single changes of the reference recipe, five seeds each.
advice: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/advice.py

# The times of the README. Half an hour, on a machine that does nothing else.
benchmark: $(VENV)/.installed-benchmarks
	$(BIN)/python benchmarks/epochs.py
	$(BIN)/python benchmarks/epochs.py --recipe fast
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/conv.py

# The tables of docs/accelerators.md, for a GPU or a TPU: the recipes, a population, a step's floor.
benchmark-accelerator: $(VENV)/.installed
	@$(BIN)/python benchmarks/accelerator.py --json runs/benchmark/accelerator.json

# The tables of docs/accelerators.md that need no accelerator: every program of every recipe, compiled
# for TPUs and GPUs by the newest compilers, and for a v5e by Colab's. More than an hour.
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

# A stamp is made when a step is done, so one that was interrupted is done again.
# With what the training's last lines propose: a report, and a page to draw on.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[report,serve]"
	touch $@

# Without what builds the pages of docs/ and what checks the code.
$(VENV)/.installed-test: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed-test $(VENV)/.installed

# Environments with the compilers of accelerators: elsewhere JAX would look for their devices.
COLAB = jax==0.7.2 flax==0.11.2 optax==0.2.8 orbax-checkpoint==0.12.4 libtpu==0.0.23
$(VENV)-ahead/.installed $(VENV)-colab/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable $(if $(findstring colab,$@),. $(COLAB),".[ahead]")
	touch $@

# PyTorch brings gigabytes of CUDA, unless its CPU build is in the environment already.
$(VENV)/.installed-benchmarks: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	touch $@ $(VENV)/.installed
