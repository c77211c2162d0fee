# Everything a fresh machine needs is Python 3.11 to 3.13, git and make: each target installs what it uses into .venv, once.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# Two processes, whatever the machine: each takes up to some gigabytes.
SIDE_BY_SIDE := --numprocesses 2 --dist worksteal

# TensorFlow's start-up notices say nothing that a reader of our output needs.
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Advertisements for what MkDocs may be replaced by one day; constraints.txt holds the version that we use.
export NO_MKDOCS_2_WARNING := 1
export DISABLE_MKDOCS_2_WARNING := true

.DEFAULT_GOAL := help
.PHONY: help demo pong test test-slow lint site results bench bench-quick clean
# Two pips must not write into one .venv at the same time.
.NOTPARALLEL:

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed-video  ## train, evaluate, film and export an agent on CartPole: half a minute
	$(BIN)/python -m kerasrl_pg demo

pong: .venv/.installed-video  ## the same on Atari Pong: minutes
	$(BIN)/python -m kerasrl_pg pong

test: lint  ## lint, then the tests and the examples in docstrings
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-slow: .venv/.installed-dev  ## the tests that train for minutes
	$(BIN)/pytest $(SIDE_BY_SIDE) -m slow

lint: .venv/.installed-dev  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

site: .venv/.installed-docs  ## write the documentation as a site, with a reference, to build/site
	$(BIN)/mkdocs build --quiet

results: .venv/.installed-dev  ## train every row of the results that is not measured yet and report: hours
	$(BIN)/python benchmarks/results.py run
	$(BIN)/python benchmarks/results.py report

bench: .venv/.installed-bench .venv-rejax/.installed  ## time this library beside others on this machine
	$(BIN)/python benchmarks/compare.py --rejax-python .venv-rejax/bin/python

bench-quick: .venv/.installed-bench .venv-rejax/.installed  ## one short repeat of each: minutes, the figures are rough
	$(BIN)/python benchmarks/compare.py --rejax-python .venv-rejax/bin/python --quick

clean:  ## remove caches and build products; runs/ and .venv stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp .venv/.installed-EXTRA is older than setup.cfg or constraints.txt when the installation has to be redone.
.venv/.installed-%: setup.cfg pyproject.toml constraints.txt | .venv/.created
	@echo "installing kerasrl_pg[$*] into .venv; the first time takes minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

.venv/.created:
	@command -v $(PYTHON) >/dev/null || \
	    { echo "error: there is no $(PYTHON); install Python 3.11 to 3.13, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "error: Python 3.11 to 3.13 is needed, for which TensorFlow has wheels; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# JAX's packages do not go beside those of tensorflow-probability.
.venv-rejax/.installed: benchmarks/rejax-requirements.txt | .venv/.created
	$(PYTHON) -m venv .venv-rejax
	.venv-rejax/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
