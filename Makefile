PYTHON ?= python3
# "lowest" tests with the lowest versions that requirements.txt allows, "newest" with the newest that exist
VERSIONS ?=
VENV := .venv$(VERSIONS:%=-%)
PY := $(VENV)/bin/python
INSTALL := $(PY) -m $(if $(VERSIONS),uv pip install --python $(PY),pip install) --quiet
RESOLVE_lowest := --resolution lowest-direct
RESOLVE_newest := --upgrade
KNOBS ?=
DATA ?= data
# a file's tests run in order; the longest file comes first
TWO_AT_ONCE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# the number of one lesson, for make lessons; nothing for all
N ?=

.PHONY: help setup run test test-all lint chromium lab lessons generate colab results bench
.DELETE_ON_ERROR:

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*##/make \1:/p' Makefile

setup: $(VENV)/dev  ## everything, for working on the course

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/run: $(VENV)/made pyproject.toml requirements.txt
ifneq ($(VERSIONS),)
	@test -n "$(RESOLVE_$(VERSIONS))" || { echo "VERSIONS is lowest or newest, not $(VERSIONS)"; exit 1; }
	$(PY) -m pip install --quiet uv
	$(INSTALL) $(RESOLVE_$(VERSIONS)) --requirements requirements.txt
endif
	$(INSTALL) --editable .
	touch $@

$(VENV)/dev: $(VENV)/run
	$(INSTALL) --editable '.[dev]'
	touch $@

run: $(VENV)/run  ## the lessons on the shipped photographs, a table and a picture (KNOBS="DATA=cifar100 EPOCHS=10")
	$(PY) tools/lessons.py run $(KNOBS)

lint: $(VENV)/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Debian's package, where this user may install it
chromium:
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit; done; \
	echo "installing Chromium, for the tests in a browser"; \
	apt() { $$([ "$$(id -u)" = 0 ] || echo "sudo -n") apt-get -o Acquire::Retries=0 "$$@" < /dev/null > /dev/null 2>&1; }; \
	{ apt update && apt install --yes chromium; } || \
	echo "That is not possible here: the tests in a browser are left out."

test: lint chromium  ## lint, every promise, every lesson with its knobs turned down, in a browser too
	$(PY) -m pytest $(TWO_AT_ONCE)

test-all: lint chromium  ## make test with twenty kills instead of three and the long forms, then make colab
	STRESS=1 $(PY) -m pytest $(TWO_AT_ONCE)
	$(PY) tools/colab.py

lab: $(VENV)/run  ## JupyterLab
	$(PY) -m jupyter lab notebooks

lessons: $(VENV)/dev  ## export, execute and clean the committed lessons (N=04 for one)
	$(PY) -m ruff check --fix --quiet notebooks
	$(PY) -m ruff format --quiet notebooks
	$(PY) tools/lessons.py refresh $(N)

generate: $(VENV)/run  ## the addresses, from pyproject.toml, and README's tables, from data/results
	$(PY) tools/generate.py

colab: $(VENV)/dev  ## every lesson, twice, with exactly Colab's versions: today's and the oldest
	$(PY) tools/colab.py

results: $(VENV)/run  ## measure on the real CIFAR-100, restartable (DATA=folder that holds cifar-100-python; SMALL=1: the race alone, in minutes)
ifdef SMALL
	$(PY) experiments/race.py "$(DATA)" --small
else
	$(PY) experiments/results.py "$(DATA)"
	$(PY) experiments/race.py "$(DATA)"
	$(PY) experiments/ship.py "$(DATA)"
	$(PY) tools/generate.py
endif

bench: $(VENV)/run  ## speed beside a peer or the limit, as ratios
	for file in training_loop lab_conversion delivery photographs; do TQDM_DISABLE=1 $(PY) benchmarks/$$file.py || exit 1; done
	$(PY) tools/generate.py
