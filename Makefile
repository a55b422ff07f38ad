# crossfm's commands. `make` or `make help` lists them.
# Everything they need is set up in .venv; a step runs again only when its sources changed.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV ?= .venv
export VENV
PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps

# Real data for the demo, the tests and the benchmarks, where a copy stands beside the checkout.
ifeq ($(origin CROSSFM_DATA),undefined)
ifneq ($(wildcard ../shared/data/.),)
export CROSSFM_DATA := $(abspath ../shared/data)
endif
endif

# More words for a command: make test ARGS="tests/test_rows.py -x"
ARGS ?=
# Test processes; the kernels under test use threads of their own.
JOBS ?= 2

.PHONY: help
help: ## List the commands
	@printf 'crossfm: factorization machines for Python\n\n'
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nMore words for the command behind it: make test ARGS="-k schema -x"\n'

# --- the environment ------------------------------------------------------------------------

$(STAMPS)/venv:
	@tools/setup.sh venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: $(STAMPS)/venv pyproject.toml requirements/pinned.txt requirements/triton.txt
	@tools/setup.sh packages
	@touch $@

$(STAMPS)/native: $(STAMPS)/packages CMakeLists.txt $(wildcard native/*)
	@tools/setup.sh native
	@touch $@

.PHONY: setup
setup: $(STAMPS)/native ## Set up .venv: packages, PyTorch (CPU), the C++ core, crossfm itself (editable)
	@printf 'ready: %s\n' "$$($(PY) -c 'import crossfm; print("crossfm", crossfm.__version__)') in $(VENV)"

# --- use and check --------------------------------------------------------------------------

.PHONY: demo
demo: $(STAMPS)/native ## The main job on MovieLens 100K: schema, fit, evaluate, save, load, explain
	@$(PY) examples/movielens.py $(ARGS)

.PHONY: test
test: $(STAMPS)/native ## All tests and doctests, except those marked slow
	@$(PY) -m pytest -q -n $(JOBS) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: $(STAMPS)/native ## All tests, the slow ones too
	@$(PY) -m pytest -q -n $(JOBS) $(ARGS)

.PHONY: lint
lint: $(STAMPS)/native ## Style, format, types, and the import levels
	@failed=; for check in "$(PY) -m ruff check ." "$(PY) -m ruff format --check ." "$(PY) -m mypy" \
		"$(VENV)/bin/lint-imports --no-cache --no-logo"; do $$check || failed="$$failed  $$check;"; done; \
		test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

.PHONY: format
format: $(STAMPS)/packages ## Format the Python sources and mend what ruff can mend
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

.PHONY: docs
docs: $(STAMPS)/native ## Write docs/api.md from the docstrings
	@$(PY) tools/reference.py

.PHONY: stubs
stubs: $(STAMPS)/native ## Write the core's type stub, src/crossfm/_native.pyi
	@$(PY) tools/stubs.py

.PHONY: bench
bench: $(STAMPS)/native ## Speed and quality beside the peers (builds .venv-peers; long)
	@$(PY) -m benchmarks.speed fm --check
	@$(PY) -m benchmarks.speed ffm --check
	@$(PY) -m benchmarks.speed mcmc --check
	@$(PY) -m benchmarks.speed text --check
	@$(PY) -m benchmarks.speed tables --check
	@$(PY) -m benchmarks.retrieval --check
	@$(PY) -m benchmarks.serving --check --minutes 10
	@$(PY) -m benchmarks.nn memory --check
	@$(PY) -m benchmarks.nn speed --check
	@$(PY) -m benchmarks.quality movielens-100k --check
	@$(PY) -m benchmarks.quality frappe --check
	@$(PY) -m benchmarks.quality ranking --check
	@$(PY) -m benchmarks.quality movielens-100k --solver mcmc --check
	@$(PY) -m benchmarks.quality frappe --solver mcmc --check

# --- slower, now and then -------------------------------------------------------------------

.PHONY: fuzz
fuzz: $(STAMPS)/native ## Readers and model files against random and mutated bytes, for minutes
	@$(PY) -m pytest -q -n $(JOBS) -m fuzz --hypothesis-profile=fuzz $(ARGS)

.PHONY: asan
asan: $(STAMPS)/native ## The tests that touch the C++ core, under address and undefined-behaviour sanitizers
	@tools/asan.sh $(ARGS)

.PHONY: oldest
oldest: ## The tests at the oldest versions that pyproject.toml allows, in .venv-oldest
	@tools/oldest.sh $(ARGS)

.PHONY: lock
lock: ## Refresh requirements/pinned.txt with the newest versions
	@tools/lock.sh

.PHONY: wheel
wheel: $(STAMPS)/packages ## Build the wheel and the source distribution into dist/
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w dist .
	@ls -l dist

.PHONY: clean
clean: ## Remove what was built and cached, .venv included
	@rm -rf $(VENV) .venv-oldest .venv-lock build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks examples tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
