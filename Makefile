# make setup | demo | test | test-all | lint | bench | figures | clean. Each works alone on a fresh machine with Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test test-all lint bench figures clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/steer sample fashion/steer
	$(BIN)/steer tune fashion/tune

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m recipes.figures.overhead

figures: $(READY)
	for name in ring_tilting plane_guidance plane_posterior step_time checkerboard fashion_steering fashion_tuning fashion_posterior fashion_objectives fashion_inverse ring_lobes verify fashion_rewards fashion_quality overhead; do $(BIN)/python -m recipes.figures.$$name || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
