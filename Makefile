# The commands for people and for CI. Each creates the virtual environment that it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run on all cores; tests/conftest.py sets the number of processes.
PYTEST := -m pytest --numprocesses auto --dist worksteal
# The tests of `make check`: unit tests, without those that start servers, fill the memory or take several seconds.
UNIT := $(addprefix tests/,core config keys rules telemetry tokens policy_tools transport/http2 transport/ext_authz/test_codec.py) \
  $(addprefix --ignore tests/,config/test_layout.py config/test_warnings.py keys/test_http_source.py rules/test_matcher.py \
  tokens/test_memory.py tokens/introspection/test_http_client.py transport/http2/test_hostile.py transport/http2/test_properties.py)
FUZZ_SECONDS ?= 600
PIP := pip install --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help demo check test test-newest test-oldest cluster-test lint docs format lock proto chart pictures fuzz bench soak clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(VENV)/demo ## run the whole path on this machine, with a real Envoy (ONCE=1 exits after the table)
	@$(BIN)/authz-service demo $(if $(ONCE),--once)

check: lint ## check format, lint, types and imports, and run the unit tests, in less than a minute
	@HYPOTHESIS_PROFILE=quick $(BIN)/python $(PYTEST) --quiet $(UNIT)

test: lint ## lint, then run every test with branch coverage, including those with the real Envoy
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-newest: ## run every test with the newest dependencies that pyproject.toml allows
	@$(MAKE) --no-print-directory suite RESOLUTION=highest

test-oldest: ## run every test with the oldest dependencies that pyproject.toml allows
	@$(MAKE) --no-print-directory suite RESOLUTION=lowest-direct

# Not locked, because this tests the version bounds in pyproject.toml.
.PHONY: suite
suite: $(VENV)/dev
	@$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python $(VENV)-$(RESOLUTION)
	@$(BIN)/uv pip install --quiet --python $(VENV)-$(RESOLUTION) --resolution $(RESOLUTION) --editable '.[test]'
	@$(VENV)-$(RESOLUTION)/bin/python $(PYTEST) -m "not locked"

lint: $(VENV)/dev ## check format, ruff, mypy, import contracts, the site, the language and workflows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/zensical build --strict
	@$(BIN)/python -m pytest --quiet --no-header tests/test_workflows.py tests/docs/test_language.py

docs: $(VENV)/dev ## serve the site on http://localhost:8000, and rebuild it on each change
	@$(BIN)/zensical serve

format: $(VENV)/dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/dev ## update requirements/ to the newest versions that pyproject.toml allows, with hashes
	@$(LOCK) pyproject.toml --extra dev --group build --output-file requirements/dev.txt
	@$(LOCK) pyproject.toml --extra demo --group build --constraint requirements/dev.txt --output-file requirements/demo.txt
	@$(LOCK) pyproject.toml --constraint requirements/dev.txt --output-file requirements/runtime.txt
	@$(LOCK) --group build --constraint requirements/dev.txt --output-file requirements/build.txt

proto: $(VENV)/dev ## generate authz_service/_pb from proto/
	@$(BIN)/python proto/generate.py

chart: $(VENV)/dev ## generate docs/schema/, docs/reference/configuration.md and chart.md, the chart's schema and examples
	@$(BIN)/authz-service schema >docs/schema/config.json
	@$(BIN)/authz-service schema --cases >docs/schema/cases.json
	@$(BIN)/python helm/generate.py
	@PYTHONPATH=helm $(BIN)/python -m docs_tools.reference

pictures: $(VENV)/dev ## draw docs/pictures/*.svg, among them the output of `make demo`; requires Go
	@PYTHONPATH=tests $(BIN)/python -m docs_tools.pictures

cluster-test: $(VENV)/dev ## install the chart in a real Kubernetes, which it builds and starts here; requires root on Linux
	@PYTHONPATH=tests $(BIN)/python -m cluster $(TESTS)

fuzz: $(VENV)/dev ## fuzz every target for FUZZ_SECONDS=600; TARGET=token fuzzes one
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(TARGET)

bench: $(VENV)/dev ## measure decisions, transports, growth, starts and memory; WRITE=1 updates docs/understand/performance.md, BEFORE=COMMIT compares
	@$(BIN)/python -m bench.bench $(if $(WRITE),--write) $(if $(BEFORE),--before $(BEFORE))

soak: $(VENV)/dev ## send a million requests through Envoy while rules, keys and revocations change; requires h2load
	@$(BIN)/python -m bench.soak
	@PYTHONPATH=tests $(BIN)/python -m bench.soak_revocations

clean: ## delete the virtual environments and all caches
	@rm -rf $(VENV) $(VENV)-* .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build tests/end_to_end/*/node_modules tests/observability/.prometheus tests/end_to_end/.keycloak tests/.go tests/fuzz/.found

# One virtual environment, because the demo needs a subset of the development dependencies. Everything, including the build
# backend, comes from the lock files with hashes. A stamp file is newer than the lock file that it was installed from.
$(VENV)/demo: pyproject.toml requirements/demo.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is required, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/$(PIP) --require-hashes --requirement requirements/demo.txt
	@$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/demo
	@$(BIN)/$(PIP) --require-hashes --requirement requirements/dev.txt
	@touch $@
