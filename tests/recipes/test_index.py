"""runs/index.html: all runs in one table."""

import json
import os

import numpy as np
from PIL import Image
from test_report import Page

from recipes.reporting.index import refresh


def leave(home, name, when, metrics, pictures=("grid.png",)):
    """A finished run."""
    run = home / name
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "report.html").write_text("<p>")
    for picture in pictures:
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(run / picture)
    os.utime(run / "report.html", (when, when))


def test_every_finished_run_has_a_row_the_newest_first(tmp_path):
    steered = {
        "method": "TrajectoryTilting",
        "reward_mean": 1.0,
        "reward_std_error": 0.1,
        "base_reward_mean": -2.5,
        "heldout_reward_mean": float("nan"),
        "evaluations": {"network_forward": 30.0, "network_backward": 12.0},
        "seconds": 5.0,
        "warnings": ["look"],
    }
    leave(tmp_path, "old", 1000, {"method": "MapTraining", "seconds": 9.0}, ("curves.png",))
    leave(tmp_path, "new", 2000, steered)
    (tmp_path / "unfinished").mkdir()
    refresh(tmp_path)
    source = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert source.index(">new</a>") < source.index(">old</a>")
    assert "unfinished" not in source
    page = Page(source)
    references = [value for name, value in page.attributes if name in ("href", "src")]
    assert references == [
        "new/report.html",
        "new/report.html",
        "new/grid.png",
        "old/report.html",
        "old/report.html",
        "old/curves.png",
    ]
    keys = [value for name, value in page.attributes if name == "data-key"]
    assert keys[:8] == ["new", "", "TrajectoryTilting", "1.0", "-2.5", "", "42.0", "5.0"]
    assert source.count('class="warned"') == 1
    assert "1.00 ± 0.10" in page.text


def test_a_run_with_damaged_figures_or_a_hostile_name_does_not_break_the_table(tmp_path):
    leave(tmp_path, "cut", 1, {})
    (tmp_path / "cut" / "metrics.json").write_text('{"method": ')
    leave(tmp_path, "<b>&'", 2, {"method": "<script>"}, ())
    refresh(tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("tr") == 3
    assert page.tags.count("script") == 1
    assert "b" not in page.tags


def test_a_run_keeps_the_index_of_its_folder(steer):
    steer.metrics("sample", "ring/steer", "particles=4", "sampler.steps=4")
    steer.metrics("sample", "ring/steer", "particles=4", "sampler.steps=4", "run.dir=runs/again")
    with open("runs/index.html", encoding="utf-8") as file:
        source = file.read()
    assert source.index(">again</a>") < source.index(">ring-steer</a>")
    steer.metrics("sample", "ring/steer", "particles=4", "sampler.steps=4", "run.dir=elsewhere/x")
    assert os.listdir("elsewhere") == ["x"]
