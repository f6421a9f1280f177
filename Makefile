# Two commands: `make quickstart` runs the main job, `make test` the tests. Each installs what it needs
# into .venv the first time, and nothing after that.

PYTHON ?= python3
BIN := .venv/bin
SIMULATIONS := tests/test_coverage.py tests/test_planning.py tests/test_promises.py
TINKER_SERVER := ../shared/tinker/server
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export MPLBACKEND := Agg

.PHONY: quickstart test test-slow test-tinker lint format model readme docs clean

quickstart: .venv/installed
	$(BIN)/confprobe run configs/quickstart.yaml

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2

# Simulations print their tables, so they run in one process.
test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m slow $(addprefix --ignore=,$(SIMULATIONS))
	$(BIN)/python -m pytest -m slow $(SIMULATIONS)

# Workflow 2 against a real server, with the SDK of today and with 0.35 (minutes; ../shared/tinker/server is needed).
ifneq ($(wildcard $(TINKER_SERVER)),)
test-tinker: .venv/installed-dev .venv.tinker-server/installed .venv.tinker-server/sdk-0.35.0
	TINKER_SERVER_VENV=$(CURDIR)/.venv.tinker-server TINKER_OLD_SDK=$(CURDIR)/.venv.tinker-server/sdk-0.35.0 \
	  $(BIN)/python -m pytest -o addopts="--strict-markers" -W ignore::ResourceWarning tests/real_server
else
test-tinker:
	@echo "Skipped: $(TINKER_SERVER) is not here, which holds the real server. All other tests do without it."
endif

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
	rm -rf .venv .venv.tinker-server runs cache/quickstart weights/quickstart/converted

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev,quant,tinker,notebook,inspect,ray,s3]'
	touch $@

.venv.tinker-server/installed: $(TINKER_SERVER)/requirements.txt
	$(PYTHON) -m venv .venv.tinker-server
	.venv.tinker-server/bin/python -m pip --disable-pip-version-check install --quiet $(TINKER_SERVER_PIP_ARGS) -r $<
	touch $@

# Before 0.36 the SDK gave out archives; it shares all that it needs with the one of today.
.venv.tinker-server/sdk-0.35.0: .venv/installed-dev
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade --target $@ tinker==0.35.0
	touch $@
