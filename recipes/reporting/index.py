"""runs/index.html: all runs of a folder in one table, which every run keeps."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.reporting.html import PAGE, STYLE, escape, number, plus_minus

NAME = "index.html"
HEADS = ("run", "", "method", "reward", "before", "held-out", "evaluations", "seconds", "when")
NUMBERS = HEADS[3:8]
MORE = """
main { max-width: 76rem; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--faint); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
td { vertical-align: middle; }
td img.thumb { width: 11rem; height: 4.5rem; object-fit: cover; object-position: left top;
  border: 1px solid var(--rule); border-radius: 4px; image-rendering: auto; }
a { color: inherit; }
td.warned::after { content: " ⚠"; color: var(--warn); }
"""
SORT = """
<script>
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = [...head.parentElement.children].indexOf(head);
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = document.querySelector("tbody");
    const key = row => row.children[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    body.append(...rows);
  });
}
</script>
"""


def refresh(home: Path) -> None:
    """Writes index.html over the runs of a folder: those that have a report, the newest first."""
    runs = [each.parent for each in home.glob("*/report.html")]
    rows = [row(run) for run in sorted(runs, key=finished, reverse=True)]
    heads = "".join(map(head, HEADS))
    body = (
        f"<h1>Runs in {escape(home.name)}</h1>"
        '<p class="claim">A click on a head sorts; one on a name opens the report.'
        " ⚠: the report begins with a warning.</p>"
        f'<figure class="table"><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>{SORT}"
    )
    page = PAGE.format(title=f"Runs in {escape(home.name)}", style=STYLE + MORE, body=body)
    scratch = home / f".{NAME}.{os.getpid()}"
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, home / NAME)


def head(words: str) -> str:
    """The head of a column, a button that sorts by it."""
    style = ' class="number"' if words in NUMBERS else ""
    return f"<th{style}><button>{words}</button></th>" if words else "<th></th>"


def finished(run: Path) -> float:
    """When a run ended, in seconds of the epoch."""
    return (run / "report.html").stat().st_mtime


def row(run: Path) -> str:
    """The row of a run."""
    metrics = read(run / "metrics.json")
    evaluations = metrics.get("evaluations") or {}
    spent = sum(evaluations.values()) if evaluations else None
    when = datetime.fromtimestamp(finished(run))
    name = f'<a href="{escape(run.name)}/report.html">{escape(run.name)}</a>'
    cells = [
        cell(name, run.name, "warned" if metrics.get("warnings") else ""),
        cell(thumbnail(run), ""),
        cell(escape(str(metrics.get("method", ""))), str(metrics.get("method", ""))),
        figure(metrics, "reward_mean"),
        figure(metrics, "base_reward_mean"),
        figure(metrics, "heldout_reward_mean"),
        cell(escape(number(spent)), key(spent), "number"),
        cell(escape(number(metrics.get("seconds"))), key(metrics.get("seconds")), "number"),
        cell(f"{when:%Y-%m-%d %H:%M}", f"{finished(run):.0f}"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def read(path: Path) -> dict[str, Any]:
    """The metrics of a run; none of one that has none, or whose file is cut off."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def thumbnail(run: Path) -> str:
    """The first picture that the run left, as a link to its report."""
    pictures = [name for name in ("grid.png", "curves.png") if (run / name).exists()]
    if not pictures:
        return ""
    source = f"{escape(run.name)}/{pictures[0]}"
    image = f'<img class="thumb" loading="lazy" alt="samples of {escape(run.name)}" src="{source}">'
    return f'<a href="{escape(run.name)}/report.html">{image}</a>'


def figure(metrics: Mapping[str, Any], name: str) -> str:
    """A figure with its error, sorted by its value."""
    value = metrics.get(name)
    error = metrics.get(f"{name.removesuffix('_mean')}_std_error")
    return cell(escape(plus_minus(value, error)), key(value), "number")


def key(value: float | None) -> str:
    """What a figure is sorted by; nothing where it is missing."""
    return "" if value is None or value != value else repr(float(value))


def cell(inside: str, sorted_by: str, style: str = "") -> str:
    """A cell of the table."""
    return f'<td class="{style}" data-key="{escape(sorted_by)}">{inside}</td>'
