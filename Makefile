# Every target makes .venv by itself. PYTHON and OUT can be given: make quickstart OUT=runs/mine SEED=1
PYTHON ?= python3
OUT ?= runs/quickstart
SEED ?= 0
BIN := .venv/bin

.PHONY: quickstart test test-stock lint types install clean

# The stamp is newer than pyproject.toml when what it asks for is installed.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: .venv/installed

quickstart: .venv/installed
	$(BIN)/coprov2 quickstart --out $(OUT) --seed $(SEED)

test: .venv/installed
	$(BIN)/python -m pytest

test-stock: .venv/installed
	$(BIN)/python -m pytest -m stock tests/integration/test_stock_clients.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
