"""The notebooks say what the tutorials say, and run."""

import re

import pytest
from test_tutorials import BLOCK

from recipes.experiments.notebooks import FOLDER, NAMES, PAGES, notebook, written

nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra dev")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_in_step_with_its_page(name):
    page = (PAGES / f"{name}.md").read_text()
    assert (FOLDER / f"{name}.ipynb").read_text() == written(page), (
        "run python -m recipes.experiments.notebooks"
    )


def test_cells_of_each_kind():
    page = (
        '# A\n\n```sh\nsteer list\n```\n\n```python title="b.py"\nx = 1\n```\n\n```python\nx\n```\n'
    )
    made = [(cell.cell_type, cell.source) for cell in notebook(page).cells]
    assert made == [
        ("markdown", "# A"),
        ("code", "!steer list"),
        ("code", "%%writefile b.py\nx = 1"),
        ("code", "x"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path):
    """Every cell, with commands as small as the tests of the tutorials have them."""
    page = (PAGES / f"{name}.md").read_text()
    made = notebook(page)
    smaller = {
        line: f"{line} {block['smaller'] or ''} --quiet"
        for block in BLOCK.finditer(page)
        for line in block["body"].splitlines()
        if line.startswith("steer ")
    }
    for cell in made.cells:
        cell.source = re.sub(
            r"^!(steer .*)$",
            lambda match: f"!python -m recipes.cli {smaller[match[1]].removeprefix('steer ')}",
            cell.source,
            flags=re.MULTILINE,
        )
    nbclient.NotebookClient(made, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    said = [out.get("text", "") for cell in made.cells for out in cell.get("outputs", [])]
    assert not any("error" in text for text in said), said
