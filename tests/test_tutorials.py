"""The pages that teach run: their Python, files and commands, in order, in one folder."""

import re
import shlex
from pathlib import Path

import pytest

from recipes.cli import main

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    str(path.relative_to(DOCS))
    for folder in ("concepts", "tutorials")
    for path in (DOCS / folder).glob("*.md")
    if re.search(r"^```(python|sh)", path.read_text(), re.MULTILINE)
)
BLOCK = re.compile(
    r"^```(?P<kind>python|sh)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<body>.*?)^```\n"
    r"(?:\n<!-- in tests: (?P<smaller>[^>]*) -->)?",
    re.MULTILINE | re.DOTALL,
)


def run(command, smaller):
    """Run one command with what makes it small; one that may fail may end with exit code 1."""
    words = shlex.split(command)[1:]
    may_fail = "may fail" in smaller
    code = main([*words, *smaller.replace("may fail", "").split(), "--quiet"])
    assert code == 0 or (may_fail and code == 1), command


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    for block in BLOCK.finditer((DOCS / page).read_text()):
        if block["file"]:
            Path(block["file"]).write_text(block["body"])
        elif block["kind"] == "python":
            exec(compile(block["body"], page, "exec"), names)
        else:
            for line in block["body"].splitlines():
                if line.startswith("steer "):
                    run(line, block["smaller"] or "")
