# `make quickstart` and `make test` do all set-up on a fresh machine; everything lands in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Both ends of the stack are tested, on Python 3.11 and 3.13; others take the newest releases that pyproject.toml allows.
CONSTRAINTS := $(wildcard constraints/$(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')-cpu.txt)
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS))

# On Linux PyPI's torch brings gigabytes of CUDA. A machine without an NVIDIA driver asks PyTorch's own index for the
# CPU build first, unless CI is set: there, PIP_EXTRA_INDEX_URL and the like say where builds come from.
ifeq ($(CI)$(shell command -v nvidia-smi),)
TORCH_INDEX ?= --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
endif

.PHONY: help quickstart test fuzz lint docs clean

help:
	@echo "make quickstart   embed, cluster, score and name (zero-shot) 700 real cells; writes quickstart_umap.png"
	@echo "make test         run the test suite; arguments for pytest in ARGS"
	@echo "make fuzz         look long for input that breaks something; FUZZ_EXAMPLES=1000 cases per property"
	@echo "make lint         ruff (rules, format), mypy, direction of imports"
	@echo "make docs         build the documentation into docs/_build/html, warnings are errors"
	@echo "make clean        remove the environment and everything built"

quickstart: $(VENV)/.package
	@$(BIN)/python tutorials/quickstart.py

test: $(VENV)/.test
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: $(VENV)/.test
	@FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),1000) $(BIN)/python -m pytest -n auto tests/fuzz $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.doc
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv* build dist docs/_build docs/api/generated docs/models/generated docs/jupyter_execute docs/tutorials
	rm -rf .mypy_cache .pytest_cache .ruff_cache quickstart_umap.png

# A stamp per set of packages: a second run starts at once, a changed requirement installs again.
$(VENV)/.package: pyproject.toml $(CONSTRAINTS)
	@echo "Installing scfoundry into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1"
	@$(PIP_INSTALL) --no-deps $(TORCH_INDEX) torch
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.dev $(VENV)/.doc: $(VENV)/.%: $(VENV)/.package
	@echo "Installing the $* group into $(VENV)"
	@$(PIP_INSTALL) --group $*
	@touch $@
