# make setup | demo | test | test-slow | docs | bench | faults | clean — `make help` says what each does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE ?= auto
JOBS ?= 2
# Tests run in JOBS processes of one thread each, those of a file in one process.
PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo setup-dev check test test-slow docs bench bench-cuda faults clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / — /' | sed 's/^/make /'

setup: $(VENV)/.setup ## .venv with what training needs

demo: setup $(if $(filter mlx,$(ENGINE)),$(VENV)/.mlx) ## a small real fine-tune on the bundled starter model, and its receipt; ENGINE=mlx: with MLX
	$(BIN)/ft demo --set resources.engine=$(ENGINE)

setup-dev: $(VENV)/.setup-dev ## .venv with the test tools too

check: setup-dev ## style and types: ruff, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check ## style, types, and the tests that take minutes
	$(PYTEST)

test-slow: setup-dev ## end-to-end and oracle tests (transformers, PEFT, TRL)
	$(PYTEST) -m slow

docs: setup-dev ## write the generated parts of README.md and docs/ again
	$(BIN)/python docs/build.py

bench: setup-dev ## training beside TRL on an idle machine, a quarter of an hour: docs/performance.md
	$(BIN)/python benchmarks/train.py --write
	$(BIN)/python benchmarks/train.py --budgets --write

bench-cuda: ## on a machine with an NVIDIA card: install, the tests that need one, the benchmark: docs/evidence/cuda.json
	benchmarks/cuda.sh

faults: setup-dev ## kills, power cuts, full disks and damage by the thousand, about two hours: docs/guide/reliability.md
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/faults/every_fault.py --write

clean: ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TrueTune needs Python 3.11 or newer; say which: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, at its exact version: asked for a range, pip takes the newest, which on Linux is
# gigabytes of CUDA packages even where there is no GPU.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.setup: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[torch]'
	@touch $@

$(VENV)/.mlx: $(VENV)/.setup
	$(PIP) -c constraints.txt -e '.[mlx]'
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) -c constraints.txt -e '.[dev]'
	-@$(BIN)/python scripts/fetch_templates.py
	@touch $@
