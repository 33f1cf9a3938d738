"""The measurements behind docs/results.md, one script per figure: `python -m
recipes.experiments.NAME`.

Each keeps its cells in docs/figures/NAME.json as it goes, takes up where it was stopped, and draws
docs/figures/NAME.png.
"""
