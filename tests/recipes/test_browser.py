"""Reports and the index of runs in a real browser: every picture is there, and nothing fails."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
)
PROBE = """
<script>
const failures = [];
addEventListener("error", event => failures.push(event.message || event.target.src), true);
addEventListener("load", () => {
  const images = [...document.images];
  for (const image of images) {
    image.loading = "eager";
    if (image.complete && image.naturalWidth === 0) failures.push(image.alt);
  }
  const wide = document.documentElement.scrollWidth - innerWidth;
  for (const button of document.querySelectorAll("th button")) button.click();
  const found = `images ${images.length}, failures ${failures.length}, beyond ${wide}`;
  document.title = `${found} ${failures.join("; ")}`;
});
</script>
"""
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH to open reports in")


def opened(page: Path, scratch: Path, width: int) -> str:
    """The title that the probe leaves in a page that is opened at this width."""
    probed = page.with_name(f"probed_{page.name}")
    source = page.read_text(encoding="utf-8")
    probed.write_text(source.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={scratch}",
        f"--window-size={width},900",
        "--virtual-time-budget=3000",
        "--dump-dom",
        probed.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    probed.unlink()
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return title


@pytest.fixture
def runs(steer):
    """The folder of two finished runs."""
    small = ["particles=16", "sampler.steps=8"]
    steer.metrics("sample", "ring/steer", *small)
    steer.metrics("sample", "ring/steer", *small, "run.dir=runs/again")
    return Path("runs")


@pytest.mark.parametrize("width", [500, 1200])  # a phone's: the least a window can have
def test_a_report_opens_whole_and_fits(runs, tmp_path, width):
    title = opened(runs / "ring-steer" / "report.html", tmp_path / "browser", width)
    images, failures, beyond = map(int, re.findall(r"-?\d+", title)[:3])
    assert images == 4, title
    assert failures == 0, title
    assert beyond <= 0, title


def test_the_index_opens_with_its_thumbnails_and_sorts(runs, tmp_path):
    title = opened(runs / "index.html", tmp_path / "browser", 1200)
    images, failures, beyond = map(int, re.findall(r"-?\d+", title)[:3])
    assert (images, failures) == (2, 0), title
    assert beyond <= 0, title


def test_the_probe_sees_a_picture_that_is_missing(runs, tmp_path):
    (runs / "again" / "grid.png").unlink()
    title = opened(runs / "index.html", tmp_path / "browser", 1200)
    assert "again/grid.png" in title
