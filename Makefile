# One word a verb, the same here and in CI. Every verb sets up .venv by itself.
#   make demo PYTHON=python3.12    to choose the interpreter of a new .venv

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
BROWSER := $(VENV)/.installed-browser
CHROMIUM ?= $(or $(shell command -v chromium || command -v chromium-browser || \
	command -v google-chrome),/usr/bin/chromium)
# Shared, or about how right answers are: of no use to make bench.
NO_SPEED := $(addprefix benchmarks/,common.py accuracy.py calibration.py depths.py \
	precision.py prompts.py review.py rivals.py suggest.py %_sets.py)
INSTALLED := pyproject.toml constraints.txt setup.py $(wildcard src/lastblock/decoder/*.[ch])
# Of pip's two hundred lines only those that say what went wrong.
INSTALL = @echo "installing into $(VENV), which takes a minute or two"; \
	$(RUN) pip --disable-pip-version-check --quiet install -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-browser lint fix bench accuracy accuracy-all bench-serve docs clean

help: ## show these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(if $(wildcard $(DEV)),$(DEV),$(CORE)) ## train a spam classifier and try it on two messages
	$(VENV)/bin/lastblock demo

test: $(DEV) ## run the tests (without the slow ones)
	$(RUN) pytest -n auto --maxprocesses 4 --dist loadfile

test-browser: $(BROWSER) $(CHROMIUM) ## try the page in Chromium, and the API with schemathesis
	CHROMIUM=$(CHROMIUM) $(RUN) pytest -m browser tests/serving

lint: $(DEV) ## check style, types and who imports whom
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-cache

fix: $(DEV) ## format, and mend what can be mended
	$(RUN) ruff format
	$(RUN) ruff check --fix

bench: $(DEV) ## measure what the README says about speed
	@set -e; for script in $(filter-out $(NO_SPEED),$(wildcard benchmarks/*.py)); do \
		echo "$$script"; $(VENV)/bin/python "$$script"; done

accuracy: $(DEV) ## compare `auto` with its rivals on the sets in LASTBLOCK_DATA, for an hour or so
	$(INSTALL) -q -e '.[dev,search,serve,accuracy]'
	$(VENV)/bin/python benchmarks/accuracy.py

accuracy-all: $(DEV) ## the same with every rival, and 8 a class to all examples, for a day or so
	$(INSTALL) -q -e '.[dev,search,serve,accuracy]'
	$(VENV)/bin/python benchmarks/accuracy.py --per-class 8 64 --total 2000 100000 --most-minutes 10 \
		--ways auto minilm tfidf fasttext last-block
	$(VENV)/bin/python benchmarks/accuracy.py --per-class 8 --ways setfit
	$(VENV)/bin/python benchmarks/accuracy.py --sets trec6 sst2 --total 2000 --per-class 64 \
		--ways trainer-last-bf16 trainer-full-bf16

bench-serve: $(DEV) ## load the server from a second process, for some minutes
	$(VENV)/bin/python benchmarks/serve.py

docs: $(DEV) ## write docs/cli.md from --help, docs/report.md, README.md's tree and speeds
	$(VENV)/bin/python docs/write_cli.py
	$(VENV)/bin/python docs/write_report.py
	$(VENV)/bin/python docs/write_tree.py
	$(VENV)/bin/python docs/write_speed.py

clean: ## remove everything that the verbs made
	rm -rf $(VENV) .cache build dist demo-model .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	rm -rf src/lastblock.egg-info src/lastblock/decoder/_kernels.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file is newer than these once the install has gone through, so that the next
# run costs nothing. venv/bin/pip is the last thing that venv writes: without it, start anew.
$(CORE): $(INSTALLED)
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -e .
	@touch $@

$(DEV): $(INSTALLED)
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -e '.[dev,search,serve]'
	@touch $@ $(CORE)

$(BROWSER): $(DEV)
	@command -v npm > /dev/null || { echo "test-browser needs npm, to fetch axe-core from its \
	registry: install Node.js (Debian: apt-get install npm)" >&2; exit 1; }
	$(INSTALL) -e '.[dev,search,serve,browser]'
	npm install --silent --no-audit --no-fund --prefix .cache/axe axe-core@4.14.1
	@touch $@

# The browser is the system's own. Root, as in CI, installs it; anybody else is told.
$(CHROMIUM):
	@test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium && \
	test -x $@ || \
	{ echo "test-browser: there is no Chromium here and it could not be installed, so NOTHING \
	was tried: apt-get install chromium, or make test-browser CHROMIUM=/its/path" >&2; exit 1; }
