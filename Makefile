# `make run` starts Stoa, `make test` runs all checks. Files are written to .venv and the data directory only.

.DEFAULT_GOAL := help
.PHONY: help run test check bench fill prove clients format lint types requirements clean

SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/bin
# A custom index or wheel directory in the user's pip configuration stays in effect; `--user` and the like are turned off.
# The files list every dependency; pip would ask for a second pin of a package that is required with an extra (--no-deps).
PIP   := PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install \
         --no-input --progress-bar off --require-hashes --no-deps
JOBS  ?= 3
# Three processes keep two cores busy while tests wait. One file per process at a time, in the order of tests/conftest.py. The tests
# start many processes, and each starts a third of a second sooner from compiled modules, which some environments turn off.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(BIN)/python ## Start Stoa: PostgreSQL, migrations, web server, job worker. Stop with Ctrl-C
	@$(call install,base)
	@exec $(BIN)/flask serve

test: lint ## Check format, lint and types, and run all tests with warnings as errors (JOBS=3 processes)
	@chromium=$$(.ci/chromium $(BIN)) || exit 1; \
	echo "Checking types and testing, in a browser at $$chromium"; \
	export STOA_CHROMIUM="$$chromium"; \
	$(call types-beside,$(PYTEST) || $(BIN)/python .ci/again.py)

check: lint ## Like test, but only the tests of files changed on this branch and none in a browser (a minute)
	@tests=$$($(BIN)/python .ci/changed.py) || exit 1; \
	echo "Checking types and testing $$tests"; \
	$(call types-beside,$(PYTEST) -x -m "not browser and not clients" $$tests)

bench: $(BIN)/python ## Benchmark against other gateways (9 minutes; LONG=1: an hour, 30 GB of disk). See docs/performance.md
	@$(call install,base)
	@LONG=$(LONG) exec $(BIN)/python -m bench

fill: $(BIN)/python ## Fill an empty database with a year of generated calls (MESSAGES=1000000, STOA_DATA_DIR=its own directory)
	@$(call install,base)
	@exec $(BIN)/python -m bench.fill $(or $(MESSAGES),1000000)

prove: dev ## Run the long proofs: races, aborts, crashes, faults, garbage, hostile input, soak, real clients, payments (ONLY="race soak")
	@exec $(BIN)/python -m tests.proof $(ONLY)

clients: dev ## Run Claude Code, Codex, opencode and aider against a server (installs 2 GB into .venv/clients)
	@npm install --prefix $(VENV)/clients --no-audit --no-fund --silent @anthropic-ai/claude-code @openai/codex opencode-ai
	@test -x $(VENV)/clients/aider/bin/aider || { python3 -m venv $(VENV)/clients/aider && \
		$(VENV)/clients/aider/bin/pip install --quiet aider-chat; }
	@STOA_CODING_CLIENTS=$(VENV)/clients exec $(BIN)/pytest -q tests/clients/test_coding_clients.py

lint: dev
	@echo "Formatting and lint"
	@$(BIN)/ruff format --check --quiet . || { echo "Run make format."; exit 1; }
	@$(BIN)/ruff check --quiet .

types: dev
	@echo "Types"
	@$(BIN)/mypy --no-error-summary

# Runs a command, and the type check beside it: one core would idle meanwhile. Type errors are printed when they are found, in one
# piece. Fails if either fails.
define types-beside
	{ errors=$$($(BIN)/mypy --no-error-summary 2>&1) || { printf '\nTypes:\n%s\n' "$$errors"; exit 1; }; } & \
	$(1); tested=$$?; \
	wait $$! || { echo "The types are wrong, see above."; exit 1; }; \
	exit $$tested
endef

format: dev ## Format the code and apply automatic lint fixes
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

requirements: dev ## Compile requirements/*.txt from requirements/*.in (needs the package index)
	@cd requirements && for name in base dev; do \
		echo "Compiling $$name.txt"; \
		UV_CUSTOM_COMPILE_COMMAND="make requirements" ../$(BIN)/uv pip compile --quiet --universal --upgrade \
			--python-version 3.11 --generate-hashes $$name.in --output-file $$name.txt || exit 1; \
	done

clean: ## Remove .venv and caches; keeps the data directory
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: dev
dev: $(BIN)/python
	@$(call install,base)
	@$(call install,dev)

# $(VENV)/*.installed is a copy of the requirements, written after a successful installation.
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
			echo "Installation failed. Check that the package index is reachable, then run this again."; \
			exit 1; }; \
		cp requirements/$(1).txt $(VENV)/$(1).installed; }
endef

$(BIN)/python:
	@.ci/venv $(VENV)
