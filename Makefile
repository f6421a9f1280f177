# Two commands: `make quickstart` runs the main job, `make test` the tests. Each installs what it needs
# into .venv the first time, and nothing after that.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export MPLBACKEND := Agg

.PHONY: quickstart test test-slow lint format model readme docs clean

quickstart: .venv/installed
	$(BIN)/confprobe run configs/quickstart.yaml

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains the quickstart model and its adapter again (weights/quickstart, some 15 minutes on 2 cores).
model: .venv/installed
	$(BIN)/python experiments/train_quickstart_model.py

# Writes the figures of the last quickstart run into README.md.
readme: .venv/installed
	$(BIN)/python experiments/readme_figures.py

# Writes docs/configuration.md from the schema.
docs: .venv/installed
	$(BIN)/python experiments/configuration_page.py

clean:
	rm -rf .venv runs cache/quickstart weights/quickstart/converted

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev,quant,tinker,notebook,inspect]'
	touch $@
