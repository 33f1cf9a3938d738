# make setup | demo | test | test-all | lint | bench | figures | results | docs | clean. Each works alone on a fresh machine with Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test test-all lint bench figures results docs clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/steer sample scenes/steer
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
	$(BIN)/python -m recipes.experiments.overhead

FIGURES := ring_tilting plane_guidance plane_posterior step_time checkerboard checkerboard_distill ring_lobes verify \
	fashion_map fashion_steering fashion_tuning tuning_worlds fashion_black_box fashion_hacking fashion_importance \
	fashion_posterior fashion_objectives fashion_inverse fashion_rewards fashion_quality scenes_clip scenes_map \
	scenes_steering scenes_tuning scenes_hacking scenes_batch overhead demo

figures: $(READY)
	for name in $(FIGURES); do $(BIN)/python -m recipes.experiments.$$name || exit 1; done
	$(BIN)/python -m recipes.experiments.scenes_world
	$(MAKE) results

results: $(READY)
	$(BIN)/python -m recipes.experiments.results

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
