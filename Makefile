# All commands run in .venv/, which is created on first use and updated when pyproject.toml or constraints.txt change.
#   make PYTHON=/path/to/python demo     to choose the interpreter yourself
#   make WORKERS=4 test                  to test with more processes
#   make package PYTHONS="python3.11 python3.13"   to try the wheel with these

PYTHON ?= python3.13 python3.12 python3.11 python3.14 python3 python
WORKERS ?= 2
TESTS ?=
EXAMPLES ?= true
# Those with which the wheel is tried; all that are found if none is named.
PYTHONS ?=

BIN := .venv/bin
CORE := .venv/.installed-core
DEV := .venv/.installed-dev
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# A second run reuses the compiled programs of the first, each process those of the others, and another checkout those of
# this one, however small they are: of the small ones there are thousands, and to read one takes less than half of the
# time that it takes to compile. The folder is that of the command.
export JAX_COMPILATION_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tumorjax/compiled
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS ?= 1
# Tests solve small problems, most of them once, so compilation dominates their time and should optimise little.
QUICK := --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false

# Each candidate is run to see whether it works: a version manager may offer a command for an interpreter that it cannot
# run, and some systems ship Python without the modules that create an environment.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs package clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(CORE) ## personalize a synthetic patient; the report is demo-report/report.html
	@echo "==> running the demonstration"
	@$(BIN)/tumorjax demo --out demo-report --overwrite

test: export XLA_FLAGS ?= $(QUICK)
test: $(DEV) ## run the tests (TESTS="tests/test_grid.py -x" for some of them)
	@echo "==> running the tests in $(WORKERS) processes"
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(DEV) ## check style and formatting
	@echo "==> checking style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEV) ## check types
	@echo "==> checking types"
	@$(BIN)/pyright

docs: $(DEV) ## build the documentation into site/, running the examples (EXAMPLES=false to leave that out)
	@echo "==> building the documentation"
	@EXAMPLES=$(EXAMPLES) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

package: $(DEV) ## build wheel and sdist into dist/, and try the wheel in a fresh environment of each Python
	@echo "==> building wheel and sdist"
	@rm -rf dist
	@$(BIN)/hatchling build
	@echo "==> trying the wheel: installation, demonstration and examples"
	@$(BIN)/python release/try_wheel.py dist/*.whl $(if $(PYTHONS),--python $(PYTHONS))

clean: ## remove what was built, and the caches
	rm -rf site demo-report build dist .pytest_cache .ruff_cache "$$JAX_COMPILATION_CACHE_DIR"
	find tumorjax tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove the environment too
	rm -rf .venv

$(CORE): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(SUITABLE)' 2>/dev/null || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No suitable Python among: $(PYTHON)"; \
	    echo "tumorjax needs Python 3.11 or newer with the venv and ensurepip modules"; \
	    echo "(on Debian and Ubuntu: the package python3-venv). Choose one with: make PYTHON=/path/to/python"; \
	    exit 1; \
	  fi; \
	  echo "==> making .venv with $$found ($$("$$found" --version))"; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo "==> installing tumorjax into .venv (a minute or two)"
	@$(INSTALL) -e .
	@touch $@

$(DEV): $(CORE)
	@echo "==> installing what tests and documentation need"
	@$(INSTALL) -e ".[test,docs,bayes,ensemble,cluster,networks,bids,dicom]"
	@touch $@
