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

.PHONY: setup run test stress lab lessons generate colab results bench
.DELETE_ON_ERROR:

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

test: $(VENV)/dev  ## lint, every test, every lesson with its knobs turned down
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest

stress: $(VENV)/dev  ## the tests that break things, twenty kills each instead of three
	STRESS=1 $(PY) -m pytest tests/test_run.py tests/test_store.py tests/test_downloads.py

lab: $(VENV)/run  ## JupyterLab
	$(PY) -m jupyter lab notebooks

lessons: $(VENV)/dev  ## export, execute and clean the committed lessons
	$(PY) -m ruff check --fix --quiet notebooks
	$(PY) -m ruff format --quiet notebooks
	$(PY) tools/lessons.py refresh

generate: $(VENV)/run  ## addresses, from pyproject.toml, and tables and plots, from data/results
	$(PY) tools/generate.py

colab: $(VENV)/dev  ## every lesson, twice, with exactly Colab's versions: today's and the oldest
	$(PY) tools/colab.py

results: $(VENV)/run  ## measure on the real CIFAR-100, restartable (DATA=folder that holds cifar-100-python; SMALL=1: the race alone, in minutes)
ifdef SMALL
	$(PY) tools/race.py "$(DATA)" --small
else
	$(PY) tools/results.py "$(DATA)"
	$(PY) tools/race.py "$(DATA)"
	$(PY) tools/ship.py "$(DATA)"
	$(PY) tools/generate.py
endif

bench: $(VENV)/run  ## speed beside a peer or the limit, as ratios
	for file in training_loop lab_conversion delivery photographs; do TQDM_DISABLE=1 $(PY) benchmarks/$$file.py || exit 1; done
	$(PY) tools/generate.py
