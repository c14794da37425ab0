# Stoa in two commands: `make run` and `make test`. Everything lives in .venv and in the data directory.

.DEFAULT_GOAL := help
.PHONY: help run test check bench fill prove format lint types requirements clean

SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/bin
# An own index or wheel folder in somebody's pip configuration stays in use; `--user` and the like cannot work here.
PIP   := PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install \
         --no-input --progress-bar off --require-hashes
JOBS  ?= 2
# Whole files, in the order of tests/conftest.py.
XDIST := -n $(JOBS) --dist loadfile --no-loadscope-reorder

help: ## Say what there is to do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(BIN)/python ## Start Stoa: PostgreSQL, migrations, web server, job worker. Ctrl-C stops everything
	@$(call install,base)
	@exec $(BIN)/flask serve

test: lint types ## Format, lint, types and all tests, warnings as errors (JOBS=2 test processes)
	@chromium=$$(.ci/chromium $(BIN)) || exit 1; \
	echo "Testing, in a browser at $$chromium"; \
	STOA_CHROMIUM="$$chromium" exec $(BIN)/pytest -q $(XDIST)

check: lint types ## The same in a minute: only the tests of what changed on this branch, none that needs a browser
	@tests=$$($(BIN)/python .ci/changed.py) || exit 1; \
	echo "Testing $$tests"; \
	exec $(BIN)/pytest -q -x $(XDIST) -m "not browser and not clients" $$tests

bench: $(BIN)/python ## Measure speed and size beside other gateways (9 minutes; LONG=1 for an hour, 30 GB of disk). See docs/performance.md
	@$(call install,base)
	@LONG=$(LONG) exec $(BIN)/python -m bench

fill: $(BIN)/python ## Fill an empty database with a year of made-up calls (MESSAGES=1000000, STOA_DATA_DIR=a folder of its own)
	@$(call install,base)
	@exec $(BIN)/python -m bench.fill $(or $(MESSAGES),1000000)

prove: dev ## Prove ledger and gateway at length: races, aborts, kills, faults, garbage, hostile input, a soak, real clients (ONLY="race soak")
	@exec $(BIN)/python -m tests.proof $(ONLY)

lint: dev
	@echo "Formatting and lint"
	@$(BIN)/ruff format --check --quiet . || { echo "Run make format."; exit 1; }
	@$(BIN)/ruff check --quiet .

types: dev
	@echo "Types"
	@$(BIN)/mypy --no-error-summary

format: dev ## Format the code and mend what lint can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

requirements: dev ## Compile requirements/*.txt anew from requirements/*.in (needs the package index)
	@cd requirements && for name in base dev; do \
		echo "Compiling $$name.txt"; \
		UV_CUSTOM_COMPILE_COMMAND="make requirements" ../$(BIN)/uv pip compile --quiet --universal --upgrade \
			--python-version 3.11 --generate-hashes $$name.in --output-file $$name.txt || exit 1; \
	done

clean: ## Remove the environment and caches; the data directory stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: dev
dev: $(BIN)/python
	@$(call install,base)
	@$(call install,dev)

# The copy of the installed list is the stamp: it is equal to the list only after an installation that succeeded.
define install
	cmp -s requirements/$(1).txt $(VENV)/$(1).installed || { \
		echo "Installing requirements/$(1).txt (a minute or so)"; \
		rm -f $(VENV)/$(1).failed; \
		{ $(PIP) -r requirements/$(1).txt 2>&1 || touch $(VENV)/$(1).failed; } | awk ' \
			/^Collecting / { printf "%s%s", (n++ % 8 ? " " : (n > 1 ? "\n  " : "  ")), $$2; fflush(); next } \
			/^(ERROR|WARNING: Retrying|error|Could not)/ { print (n ? "\n" : "") $$0; n = 0; fflush() } \
			END { if (n) print "" }'; \
		test ! -e $(VENV)/$(1).failed || { \
			rm -f $(VENV)/$(1).failed; \
			echo "The requirements were not installed. Is the package index reachable? Then run this again."; \
			exit 1; }; \
		cp requirements/$(1).txt $(VENV)/$(1).installed; }
endef

$(BIN)/python:
	@.ci/venv $(VENV)
