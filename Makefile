# The same commands for people and for CI. Each makes the virtual environment that it needs; nothing is installed before.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint format proto chart bench soak clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/demo ## the whole path on this machine: real Envoy, real requests (ONCE=1 ends after the table)
	@$(BIN)/authz-service demo $(if $(ONCE),--once)

test: lint $(VENV)/dev ## lint, then every test with branch coverage, the real Envoy's included
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: $(VENV)/dev ## format, ruff, mypy, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/dev ## rewrite the code in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

proto: $(VENV)/dev ## generate authz_service/_pb from proto/
	@$(BIN)/python proto/generate.py

chart: $(VENV)/dev ## generate the chart's schema and the rendered examples
	@$(BIN)/python helm/generate.py

bench: $(VENV)/dev ## measure a decision, the transports, and both behind Envoy; WRITE=1 writes docs/performance.md
	@$(BIN)/python -m bench.bench $(if $(WRITE),--write)

soak: $(VENV)/dev ## a million checks through Envoy while rules and keys change; needs h2load
	@$(BIN)/python -m bench.soak

clean: ## forget the virtual environment and every cache
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* dist build tests/end_to_end/oidc_provider/node_modules tests/observability/.prometheus tests/end_to_end/.go

# One virtual environment: the demo needs a part of what development needs. The stamp is newer than pyproject.toml when
# what it lists is installed.
$(VENV)/demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/dev: pyproject.toml $(VENV)/demo
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
