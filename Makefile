# The same commands for people and for CI. Each makes the virtual environment that it needs; nothing is installed before.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Every test on all cores; tests/conftest.py says how many at once.
PYTEST := -m pytest --numprocesses auto --dist worksteal
# The tests that start no server, fill no memory and read no text of the largest size.
UNIT := $(addprefix tests/,core config keys rules telemetry tokens tools transport/http2 transport/test_mapping.py) \
  --ignore tests/config/test_layout.py --ignore tests/config/test_warnings.py --ignore tests/tokens/test_memory.py \
  --ignore tests/tokens/introspection/test_http_client.py --ignore tests/keys/test_http_source.py --ignore tests/transport/http2/test_properties.py --ignore tests/rules/test_matcher.py
FUZZ_SECONDS ?= 600
PIP := pip install --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help demo check test test-newest test-oldest lint format lock proto chart fuzz bench soak clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(VENV)/demo ## the whole path on this machine: real Envoy, real requests (ONCE=1 ends after the table)
	@$(BIN)/authz-service demo $(if $(ONCE),--once)

check: lint ## format, lint, types, layers and the unit tests, in about a minute
	@HYPOTHESIS_PROFILE=quick $(BIN)/python $(PYTEST) --quiet $(UNIT)

test: lint ## lint, then every test with branch coverage, the real Envoy's included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-newest: ## every test on the newest versions that pyproject.toml allows, locked or not
	@$(MAKE) --no-print-directory suite RESOLUTION=highest

test-oldest: ## every test on the oldest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory suite RESOLUTION=lowest-direct

# Not locked, by intention: it finds out what the bounds of pyproject.toml are worth.
.PHONY: suite
suite: $(VENV)/dev
	@$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python $(VENV)-$(RESOLUTION)
	@$(BIN)/uv pip install --quiet --python $(VENV)-$(RESOLUTION) --resolution $(RESOLUTION) --editable '.[test]'
	@$(VENV)-$(RESOLUTION)/bin/python $(PYTEST) -m "not locked"

lint: $(VENV)/dev ## format, ruff, mypy, layers, workflows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest --quiet --no-header tests/test_workflows.py

format: $(VENV)/dev ## rewrite the code in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/dev ## renew requirements/: the newest versions that pyproject.toml allows, with their hashes
	@$(LOCK) pyproject.toml --extra dev --group build --output-file requirements/dev.txt
	@$(LOCK) pyproject.toml --extra demo --group build --constraint requirements/dev.txt --output-file requirements/demo.txt
	@$(LOCK) pyproject.toml --constraint requirements/dev.txt --output-file requirements/runtime.txt
	@$(LOCK) --group build --constraint requirements/dev.txt --output-file requirements/build.txt

proto: $(VENV)/dev ## generate authz_service/_pb from proto/
	@$(BIN)/python proto/generate.py

chart: $(VENV)/dev ## generate the chart's schema and the rendered examples
	@$(BIN)/python helm/generate.py

fuzz: $(VENV)/dev ## look for inputs that break a promise, FUZZ_SECONDS=600 for each target; TARGET=token for one
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(TARGET)

bench: $(VENV)/dev ## measure a decision, the transports, and both behind Envoy; WRITE=1 writes docs/performance.md
	@$(BIN)/python -m bench.bench $(if $(WRITE),--write)

soak: $(VENV)/dev ## a million checks through Envoy while rules and keys change; needs h2load
	@$(BIN)/python -m bench.soak

clean: ## forget the virtual environments and every cache
	@rm -rf $(VENV) $(VENV)-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build tests/end_to_end/oidc_provider/node_modules tests/observability/.prometheus tests/.go tests/fuzz/.found

# One virtual environment: the demo needs a part of what development needs. Everything comes from the lock files, with their
# hashes, and what builds the program does too. A stamp is newer than the files above it when what they list is installed.
$(VENV)/demo: pyproject.toml requirements/demo.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/$(PIP) --require-hashes --requirement requirements/demo.txt
	@$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/demo
	@$(BIN)/$(PIP) --require-hashes --requirement requirements/dev.txt
	@touch $@
