"""report.html: the report of a run in one self-contained file."""

import base64
import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from recipes.reporting.glossary import MEANINGS, meaning, term

Cell = str | float | int | Path | None  # a path is that of a PNG

CLAIMS = {
    "exact": (
        "Exact: with enough steps and particles, the weighted samples follow the base law tilted by"
        " the reward."
    ),
    "exact for the chain": (
        "Exact for the chain: with enough particles, the weighted samples follow the law that the"
        " same sampler draws from without the reward, at this noise level and number of steps,"
        " tilted by the reward. That is not the law of the map's deterministic flow: its velocity"
        " is guided, or its jumps do not follow its velocity."
    ),
    "biased": (
        "Biased: the samples lean toward the reward, but follow the tilted law only roughly,"
        " whatever the steps."
    ),
    "maximiser": ("Maximiser: the samples are chosen for a high reward, and follow no stated law."),
}
TUNED = {
    "exact": (
        "Exact: at the minimum of its loss the tuned model draws from the base law tilted by the"
        " reward, as far as its network can."
    ),
    "near": (
        "Near the tilted law: equal to it to first order in the reward, and off it where the reward"
        " is large."
    ),
    "transport": (
        "Transport: the tuned model maximises the reward less the cost of moving each sample. That"
        " is not the base law tilted by the reward."
    ),
    "maximiser": (
        "Maximiser: the tuned model draws samples of high reward, which follow no stated law; stop"
        " by a held-out reward."
    ),
    "teachers": "Distilled: the tuned model draws what its teachers draw.",
}
NUMBER = re.compile(
    r"[−+-]?([\d.,\u202f]+|inf)(e[−+-]?\d+)?( ± [\d.]+)?( ?[%s])?( of [\d\u202f]+)?|[–]?"
)

STYLE = """
:root { color-scheme: light dark; --ink: #20252b; --faint: #5d6672; --rule: #d9dde3;
  --page: #f7f8f9; --card: #fff; --warn: #c0721d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --faint: #9aa4b1; --rule: #343b44; --page: #15181c; --card: #1d2126;
    --warn: #e0a04f; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 3rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif; }
main { max-width: 58rem; margin: 0 auto; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; }
.claim { margin: .6rem 0 0; max-width: 50rem; color: var(--faint); font-size: 1.05rem;
  text-wrap: pretty; }
.warnings { margin: 1.25rem 0 0; padding: .8rem 1rem; list-style: none; max-width: 50rem;
  border-left: 4px solid var(--warn); background: var(--card); border-radius: 0 6px 6px 0; }
.warnings li + li { margin-top: .5rem; }
abbr { text-decoration: underline dotted var(--rule); text-underline-offset: .2em; cursor: help; }
dl.glossary { margin: .75rem 0 0; max-width: 50rem; font-size: .9rem; }
dl.glossary dt { font-weight: 600; }
dl.glossary dd { margin: 0 0 .6rem; color: var(--faint); }
td img { display: block; max-width: none; image-rendering: pixelated; background: #fff; }
.headline { display: flex; flex-wrap: wrap; gap: 1rem 2.75rem; margin: 1.75rem 0 0; padding: 1rem 0;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
.headline div { display: flex; flex-direction: column-reverse; }
.headline dt { color: var(--faint); font-size: .8rem; }
.headline dd { margin: 0; font-size: 1.35rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
figure { margin: 2.25rem 0 0; }
.paper { background: #fff; border: 1px solid var(--rule); border-radius: 6px; padding: .75rem;
  overflow-x: auto; }
.paper img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--faint); font-size: .9rem; text-align: left; text-wrap: pretty; }
figcaption { max-width: 50rem; }
figcaption { margin-top: .6rem; }
.tables { display: flex; flex-wrap: wrap; align-items: start; gap: 0 4rem; }
.table { min-width: 0; max-width: 100%; margin-top: 2.5rem; }
.table figcaption { margin: 0 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .34rem 1.5rem .34rem 0; border-bottom: 1px solid var(--rule); text-align: left; }
th { color: var(--faint); font-weight: 500; font-size: .82rem; border-bottom-color: var(--faint); }
th.number, td.number { text-align: right; white-space: nowrap; }
tr > :last-child { padding-right: 0; }
details { margin-top: 2.5rem; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
pre { margin: .75rem 0 0; padding: 1rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--rule); border-radius: 6px;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { margin-top: 2.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
footer p { margin: .15rem 0; color: var(--faint); font-size: .82rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.35rem; overflow-wrap: anywhere; }
  .headline { gap: .8rem 1.6rem; }
  .headline dd { font-size: 1.1rem; }
  .paper { padding: .4rem; }
  th, td { padding-right: .9rem; }
}
@media print {
  :root { --ink: #000; --faint: #444; --rule: #ccc; --page: #fff; --card: #fff; }
  body { padding: 0; font-size: 10pt; }
  h1 { font-size: 16pt; }
  .headline { gap: .5rem 2rem; }
  .tables { gap: 0 2.5rem; }
  figure, .table { break-inside: avoid; }
  .paper { border: 0; padding: 0; }
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write(
    path: str | Path,
    title: str,
    claim_line: str,
    pictures: Sequence[tuple[str, str | Path]],
    tables: Sequence[tuple[str, Sequence[Sequence[Cell]]]] = (),
    config_text: str = "",
    notes: Sequence[str] = (),
    headline: Sequence[tuple[str, Cell]] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Writes the report, with all text escaped and pictures inlined; it loads nothing else.

    Args:
        path: of the HTML file.
        title: what was run.
        claim_line: what was done and what its samples follow; `CLAIMS` explains the claim of a
            sampler.
        pictures: (caption, path of a PNG), in the order they are read.
        tables: (caption, rows); the first row is the head, the first cell of the others names the
            row. A column whose other cells are all numbers, from `number`, `plus_minus` or plain,
            is right-aligned; None is a dash.
        config_text: the configuration, folded away.
        notes: lines of small print: versions, seed, seconds, the command.
        headline: (name, figure), the most important ones.
        warnings: what the reader must know first.

    Figures whose names the glossary knows are explained, on hover and below.

    Raises:
        ValueError: a picture that is not there or is no PNG.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="claim">{escape(claim_line)}</p>',
        warned(warnings),
        summary(headline),
    ]
    parts += [figure(caption, Path(png)) for caption, png in pictures]
    if tables:
        parts.append(
            '<div class="tables">'
            + "".join(table(caption, rows) for caption, rows in tables)
            + "</div>"
        )
    names = [what for what, _ in headline]
    for caption, rows in tables:
        names += [caption, *map(shown, rows[0]), *(shown(row[0]) for row in rows)]
    parts.append(glossary(names))
    if config_text:
        parts.append(
            f"<details><summary>Configuration</summary><pre>{escape(config_text)}</pre></details>"
        )
    if notes:
        parts.append("<footer>" + "".join(f"<p>{escape(note)}</p>" for note in notes) + "</footer>")
    page = PAGE.format(
        title=escape(title), style=STYLE, body="\n".join(part for part in parts if part)
    )
    Path(path).write_text(page, encoding="utf-8")


def warned(warnings: Sequence[str]) -> str:
    """The warnings, in a block of their own."""
    if not warnings:
        return ""
    lines = "".join(f"<li><strong>Warning:</strong> {escape(each)}.</li>" for each in warnings)
    return f'<ul class="warnings">{lines}</ul>'


def glossary(names: Sequence[str]) -> str:
    """What the figures of these names mean, folded away."""
    terms = dict.fromkeys(name for name in map(term, names) if name is not None)
    if not terms:
        return ""
    entries = "".join(f"<dt>{escape(t)}</dt><dd>{escape(MEANINGS[t])}</dd>" for t in terms)
    return (
        "<details><summary>What the figures mean</summary>"
        f'<dl class="glossary">{entries}</dl></details>'
    )


def explained(words: str) -> str:
    """The name of a figure, with its meaning on hover."""
    found = meaning(words)
    if found is None:
        return escape(words)
    return f'<abbr title="{escape(found)}">{escape(words)}</abbr>'


def summary(headline: Sequence[tuple[str, Cell]]) -> str:
    """The headline figures."""
    if not headline:
        return ""
    pairs = "".join(
        f"<div><dt>{explained(what)}</dt><dd>{escape(shown(figure))}</dd></div>"
        for what, figure in headline
    )
    return f'<dl class="headline">{pairs}</dl>'


def figure(caption: str, png: Path) -> str:
    """A picture on white, at half its pixels, with its caption."""
    return (
        f'<figure><div class="paper">{inlined(caption, png)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def inlined(alt: str, png: Path) -> str:
    """A picture at half its pixels, in the page itself. Raises ValueError if it is no PNG."""
    try:
        with Image.open(png, formats=["PNG"]) as image:
            width, height = image.size
    except OSError as error:
        raise ValueError(f"the report needs a PNG at {png}; {error}") from error
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    size = f'width="{width // 2}" height="{height // 2}"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{data}">'


def table(caption: str, rows: Sequence[Sequence[Cell]]) -> str:
    """A table whose first row is its head."""
    if len({len(row) for row in rows}) != 1:
        raise ValueError(
            f"table {caption!r} needs a head and rows of one length; got lengths"
            f" {[len(r) for r in rows]}"
        )
    numeric = [all(is_number(row[j]) for row in rows[1:]) and j > 0 for j in range(len(rows[0]))]
    lines = [line(row, numeric, "td" if i else "th") for i, row in enumerate(rows)]
    head = lines[0]
    body = "".join(lines[1:])
    return (
        f'<figure class="table"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="scroll"><table>'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div></figure>"
    )


def line(row: Sequence[Cell], numeric: Sequence[bool], tag: str) -> str:
    """A row of a table."""
    cells = []
    for j, (cell, right) in enumerate(zip(row, numeric, strict=True)):
        named = explained if j == 0 or tag == "th" else escape
        inside = inlined(shown(row[0]), cell) if isinstance(cell, Path) else named(shown(cell))
        style = ' class="number"' if right else ""
        cells.append(f"<{tag}{style}>{inside}</{tag}>")
    return "<tr>" + "".join(cells) + "</tr>"


def is_number(cell: Cell) -> bool:
    """Whether a cell is a number, or missing."""
    if isinstance(cell, Path):
        return False
    return not isinstance(cell, str) or NUMBER.fullmatch(cell) is not None


def shown(cell: Cell) -> str:
    """A cell as it is printed."""
    return str(cell) if isinstance(cell, str | Path) else number(cell)


def number(value: float | int | None) -> str:
    """A number to four significant digits, thousands separated by narrow spaces.

    A dash for None or NaN.
    """
    if value is None or value != value:
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        text = f"{int(value):,}"
    elif 1e4 <= abs(value) < 1e15:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return text.replace(",", "\u202f").replace("-", "−")


def plus_minus(value: float | None, std_error: float | None) -> str:
    """value ± s.e., the error to two significant digits and the value to the same decimal."""
    if value is None or not math.isfinite(value) or not std_error or not math.isfinite(std_error):
        return number(value)
    decimals = max(1 - int(f"{std_error:.1e}".split("e")[1]), 0)
    return f"{value:.{decimals}f} ± {std_error:.{decimals}f}".replace("-", "−")


def escape(text: str) -> str:
    """Text as HTML text or attribute."""
    return html.escape(text, quote=True)
