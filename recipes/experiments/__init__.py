"""The experiments behind docs/results.md, one script each: `python -m recipes.experiments.NAME`.

Each writes its cells to docs/figures/NAME.json as it goes, resumes where it was stopped, and draws
docs/figures/NAME.png.
"""
