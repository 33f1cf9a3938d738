"""The files, links and names that the documents speak of exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/weights/*.md"))),
]
EXAMPLES = {"docs/figures/NAME.json", "rewards/stripes.py", "recipes.experiments.NAME"}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document):
    text = (ROOT / document).read_text()
    paths = set(re.findall(r"`((?:steer|rewards|recipes|tests|docs)/[\w./-]+\.\w+)`", text))
    links = {
        str(Path(document).parent / link)
        for link in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", text)
    }  # fmt: skip
    names = set(re.findall(r"\b((?:steer|rewards|recipes)(?:\.[A-Za-z_]\w*)+)\b", text))
    missing = [path for path in paths | links if not (ROOT / path).exists()]
    missing += [
        name
        for name in names
        if not resolves(name) and not name.endswith((".py", ".md", ".yaml", ".safetensors", ".png"))
    ]
    assert sorted(set(missing) - EXAMPLES) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_link_points_at_is_a_heading(document):
    """Of the page before the #, or of the page itself."""
    text = (ROOT / document).read_text()
    found = re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", text)
    pages = {
        path: (ROOT / document).parent / path if path else ROOT / document for path, _ in found
    }
    known = {path: anchors(page) for path, page in pages.items()}
    assert [link for link in found if link[1] not in known[link[0]]] == []


def test_the_sections_of_results_are_linked():
    """No section is named without a link to it."""
    for document in ("docs/choosing.md", "docs/papers.md"):
        text = (ROOT / document).read_text()
        assert "results.md#" in text
        assert re.findall(r"results, sections? \d|\(results\.md\)\)? section", text) == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, which GitHub and MkDocs form alike."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings]
    return {re.sub(r"\s+", "-", heading) for heading in plain}
