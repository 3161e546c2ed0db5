# make run   serve (set-up included)        make test  every test (set-up included)
# make lint  formatter, linter, types, imports          make lock  renew requirements.lock (needs uv)
# make test-rows  every row of docs/reliability.md, the long ones too
# make test-chaos   minutes of faults of every kind (CHAOS_SECONDS, CHAOS_SEED)
# make mutate mutation testing of protocol and routing (under an hour, resumable; ARGS="routing --again")
# make bench compare with nginx and LiteLLM, write docs/benchmarks.md (half an hour; ARGS=--quick: a few minutes)
PYTHON ?= $(shell for v in 3.13 3.14 3.12 3.15 3.11; do python$$v -c '' 2>/dev/null && { echo python$$v; exit; }; done; echo python3)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install
ARGS ?=

.PHONY: run test test-rows test-chaos mutate lint bench format lock clean
.DEFAULT_GOAL := run

# The marker in the lock file parts what serves from what tests.
$(VENV)/.served: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 run" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@sed '/^# --- tests and checks/,$$d' requirements.lock > $(VENV)/serve.lock
	@$(PIP) --require-hashes -r $(VENV)/serve.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.served
	@echo "Setting up the tools of the tests ..."
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

run: $(VENV)/.served
	@exec $(BIN)/aicore-proxy run $(ARGS)

test: $(VENV)/.tested
	@$(BIN)/python scripts/test.py $(ARGS)

test-rows: $(VENV)/.tested
	@$(BIN)/python -m pytest -q tests/reliability $(ARGS)

test-chaos: $(VENV)/.tested
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-120} $(BIN)/python -m pytest -q -s tests/chaos $(ARGS)

mutate: $(VENV)/.tested
	@$(BIN)/python scripts/mutate.py $(ARGS)

lint: $(VENV)/.tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(VENV)/.served
	@$(BIN)/python -m aicore_proxy.bench --page docs/benchmarks.md $(ARGS)

format: $(VENV)/.tested
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	sh scripts/lock.sh

clean:
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .mutation .coverage .coverage.* dist build
