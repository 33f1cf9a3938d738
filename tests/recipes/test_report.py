import base64
import re
from html.parser import HTMLParser
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from recipes.reporting import html, tables
from recipes.reporting.glossary import MEANINGS, meaning
from recipes.reporting.html import number, plus_minus
from steer.samplers.base import Claim
from steer.tuning.objective import TuningClaim

HOSTILE = "<script>alert(\"1 & 2\")</script> {title} 'quoted'"


class Page(HTMLParser):
    """The tags, attributes and text of a report."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(path)
    return path


@pytest.fixture
def source(tmp_path, png):
    """A report all of whose texts are hostile."""
    path = tmp_path / "report.html"
    html.write(
        path,
        HOSTILE,
        HOSTILE,
        [(HOSTILE, png), ("second", str(png))],
        [(HOSTILE, [["", HOSTILE], [HOSTILE, HOSTILE], ["b", None]])],
        HOSTILE,
        [HOSTILE],
        [(HOSTILE, HOSTILE), ("log Z", -1.5)],
    )
    return path.read_text(encoding="utf-8")


def test_nothing_is_fetched(source):
    page = Page(source)
    assert not set(page.tags) & {"script", "link", "iframe", "object", "embed", "base", "form"}
    references = [
        value
        for name, value in page.attributes
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert len(references) == 2
    assert all(value.startswith("data:image/png;base64,") for value in references)
    assert "url(" not in source
    assert "@import" not in source
    assert not re.search(r"https?:", source)


def test_all_text_is_escaped(source):
    page = Page(source)
    assert page.open == []
    assert page.text.count(HOSTILE) == 12
    assert [value for name, value in page.attributes if name == "alt"] == [HOSTILE, "second"]
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_pictures_are_the_files_at_half_their_size(source, png):
    page = Page(source)
    inlined = [value.split(",", 1)[1] for name, value in page.attributes if name == "src"]
    assert [base64.b64decode(data) for data in inlined] == [png.read_bytes()] * 2
    assert [int(value) for name, value in page.attributes if name in ("width", "height")] == [
        5,
        3,
    ] * 2


def test_pictures_come_first_and_configuration_is_folded(source):
    assert (
        source.index("<h1>")
        < source.index("<figure>")
        < source.index("<table>")
        < source.index("<details>")
    )


def test_a_report_without_extras_has_no_empty_parts(tmp_path, png):
    html.write(tmp_path / "report.html", "title", "claim", [("caption", png)])
    assert not set(Page((tmp_path / "report.html").read_text(encoding="utf-8")).tags) & {
        "table",
        "details",
        "footer",
        "dl",
    }


def test_only_columns_of_figures_are_set_to_the_right():
    rows = [["", "value", "word"], ["a", "0.5 ± 0.1", "0.5"], ["b", None, "high"], ["c", 12, ""]]
    body = html.table("caption", rows)
    assert body.count('class="number"') == 4
    assert '<th class="number">value</th>' in body
    assert "<td>high</td>" in body


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (3, "3"),
        (1.0, "1"),
        (-0.123456, "−0.1235"),
        (1234567, "1\u202f234\u202f567"),
        (123456.7, "123\u202f457"),
        (1.5e-7, "1.5e−07"),
        (float("-inf"), "−inf"),
    ],
)
def test_numbers(value, words):
    assert number(value) == words


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-0.21138, 0.01234, "−0.211 ± 0.012"),
        (1234.5, 56.0, "1234 ± 56"),
        (0.954, 0.0099999, "0.954 ± 0.010"),
        (0.954, None, "0.954"),
        (0.954, float("nan"), "0.954"),
        (0.954, 0.0, "0.954"),
        (None, 0.1, "–"),
    ],
)
def test_errors_set_the_decimals(value, error, words):
    assert plus_minus(value, error) == words
    assert html.is_number(words)


def test_every_claim_has_words():
    assert set(html.CLAIMS) == set(get_args(Claim))
    assert set(html.TUNED) == set(get_args(TuningClaim))


def test_what_is_no_picture_is_said_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("text.png", "missing.png"):
        with pytest.raises(ValueError, match=f"PNG at .*{name}") as error:
            html.write(tmp_path / "report.html", "title", "claim", [("caption", tmp_path / name)])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_ragged_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows of one length; got lengths \[2, 1\]"):
        html.write(
            tmp_path / "report.html", "title", "claim", [], [("caption", [["", "a"], ["b"]])]
        )


# --- what figures mean --------------------------------------------------------------------------
def test_every_figure_of_the_tables_is_in_the_glossary():
    """A reader finds each of them explained; names of methods and parameters need no words."""
    shown = [*tables.WORDS.values(), *tables.METRICS.values(), *tables.PATH.values()]
    shown += ["log Z, closed form", "smallest effective sample size", "network forwards"]
    assert [name for name in shown if meaning(name) is None] == []
    assert meaning("reward, unweighted") == MEANINGS["reward, unweighted"]
    assert meaning("held-out reward 2") == MEANINGS["held-out reward"]
    assert meaning("reward, steered") == MEANINGS["reward"]
    assert meaning("Fréchet distance") == MEANINGS["frechet distance"]
    assert meaning("tuned parameters") is None


def test_figures_are_explained_on_hover_and_below(tmp_path, png):
    path = tmp_path / "report.html"
    rows = [["", "steered"], ["diversity", 0.5], ["a name", 1]]
    html.write(path, "t", "c", [("p", png)], [("The samples.", rows)], headline=[("log Z", 1.0)])
    source = path.read_text(encoding="utf-8")
    titles = [value for name, value in Page(source).attributes if name == "title"]
    assert titles == [MEANINGS["log z"], MEANINGS["diversity"]]
    below = source[source.index("What the figures mean") :]
    assert html.escape(MEANINGS["log z"]) in below
    assert html.escape(MEANINGS["diversity"]) in below


def test_warnings_come_before_all_figures(tmp_path, png):
    path = tmp_path / "report.html"
    html.write(path, "t", "c", [("p", png)], headline=[("log Z", 1.0)], warnings=[HOSTILE, "b"])
    source = path.read_text(encoding="utf-8")
    assert source.index("<strong>Warning:</strong>") < source.index("<dl")
    assert Page(source).text.count(f"Warning: {HOSTILE}.") == 1


def test_a_table_shows_pictures(tmp_path, png):
    body = html.table("caption", [["", "samples", "reward"], ["a", png, 1.0]])
    assert Page(body).tags.count("img") == 1
    assert 'alt="a"' in body
