"""Notebooks of the tutorials, made from their pages.

    python -m recipes.experiments.notebooks      # writes docs/notebooks/*.ipynb; needs nbformat

Python becomes cells, a titled block a file that is written, a command a cell that runs it, and all
else text. A test holds the notebooks in step with the pages and runs them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = Path("docs/tutorials")
FOLDER = Path("docs/notebooks")
NAMES = ("first_samples", "own_reward", "inverse_problems")
FENCE = re.compile(
    r"^```(?P<kind>python|sh)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<body>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!--.*?-->\n*", re.DOTALL)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells(page: str) -> Iterator[tuple[str, str]]:
    """Each cell of a page: "markdown" or "code", and its source."""
    end = 0
    for block in FENCE.finditer(page):
        yield "markdown", page[end : block.start()]
        yield "code", source(block["kind"], block["file"], block["body"])
        end = block.end()
    yield "markdown", page[end:]


def source(kind: str, file: str | None, body: str) -> str:
    """The source of a cell of code."""
    if file is not None:
        return f"%%writefile {file}\n{body}"
    return "".join(f"!{line}\n" for line in body.splitlines()) if kind == "sh" else body


def notebook(page: str) -> Any:
    """The notebook of a page."""
    import nbformat.v4 as v4

    made = v4.new_notebook(metadata={"kernelspec": KERNEL})
    for kind, text in cells(page):
        text = COMMENT.sub("", text).strip()
        if text:
            new = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
            made.cells.append(new(text, id=f"cell-{len(made.cells)}"))
    return made


def written(page: str) -> str:
    """The notebook of a page as the text of its file."""
    import nbformat

    return nbformat.writes(notebook(page)) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        page = (PAGES / f"{name}.md").read_text()
        (FOLDER / f"{name}.ipynb").write_text(written(page))


if __name__ == "__main__":
    main()
