# `make demo` and `make test` do all the set-up they need: Python 3.11 and a C++ compiler are enough.
PYTHON ?= python3.11
SHOP   := demo/shop
DATA   ?= $(SHOP)
OUT    ?= demo/out
BIN    := .venv/bin
STAMP  := .venv/.installed
UV     := uv==0.8.22

.PHONY: setup demo test lint format lock clean

setup: $(STAMP)

$(STAMP): requirements.lock tools/install_horovod.py setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python tools/install_horovod.py
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m jobs.session
	touch $@

demo: setup
	$(if $(filter $(SHOP),$(DATA)),test -d $(SHOP) || $(BIN)/ubp generate --out $(SHOP))
	$(BIN)/ubp run --data $(DATA) --out $(OUT) --config demo

test: lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(BIN)/uv pip compile --quiet --generate-hashes requirements.in -o requirements.lock

clean:
	rm -rf .venv demo build *.egg-info
