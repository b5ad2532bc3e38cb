PYTHON ?= python3
PY := .venv/bin/python
KNOBS ?=
DATA ?= data

.PHONY: setup run test lab lessons generate colab results bench
.DELETE_ON_ERROR:

setup: .venv/dev  ## everything, for working on the course

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/run: .venv/made pyproject.toml requirements.txt
	$(PY) -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/run
	$(PY) -m pip install --quiet --editable '.[dev]'
	touch $@

run: .venv/run  ## the lessons on the shipped photographs, a table and a picture (KNOBS="DATA=cifar100 EPOCHS=10")
	$(PY) tools/lessons.py run $(KNOBS)

test: .venv/dev  ## lint, every test, every lesson with its knobs turned down
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest

lab: .venv/run  ## JupyterLab
	$(PY) -m jupyter lab notebooks

lessons: .venv/dev  ## export, execute and clean the committed lessons
	$(PY) -m ruff check --fix --quiet notebooks
	$(PY) -m ruff format --quiet notebooks
	$(PY) tools/lessons.py refresh

generate: .venv/run  ## addresses, from pyproject.toml, and tables and plots, from data/results
	$(PY) tools/generate.py

colab: .venv/dev  ## every lesson, twice, with exactly Colab's versions: today's and the oldest
	$(PY) tools/colab.py

results: .venv/run  ## measure on the real CIFAR-100, restartable (DATA=folder that holds cifar-100-python)
	$(PY) tools/results.py "$(DATA)"
	$(PY) tools/generate.py

bench: .venv/run  ## speed beside a peer or the limit, as ratios
	for file in benchmarks/[a-z]*.py; do TQDM_DISABLE=1 $(PY) $$file || exit 1; done
	$(PY) tools/generate.py
