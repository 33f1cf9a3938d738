"""What is released: an sdist, a wheel built from it, and its types, outside the repository."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("steer", "rewards", "recipes")
SDIST = "from setuptools.build_meta import build_sdist; build_sdist('{}')"
SCRIPT = """
from pathlib import Path

import torch
from torch import Tensor

import rewards
import steer


def left_half_bright(x: Tensor) -> Tensor:
    return x[..., : x.shape[-1] // 2].mean((1, 2, 3))


def steered(flow_map: steer.FlowMap, folder: Path) -> Tensor:
    tilt = steer.Tilt(left_half_bright, scale=10.0)
    x0 = torch.randn(10, 2, 1, 28, 28)
    sampler = steer.samplers.TrajectoryTilting(4, steer.lookahead.MapJump(), max_batch=128)
    result = sampler(flow_map, x0, tilt, cond=torch.arange(10))
    result.save(folder)
    x: Tensor = result.x
    return x


def loaded() -> steer.FlowMap:
    flow_map: steer.FlowMap = steer.guidance.Unconditional(steer.load("fashion"))
    return flow_map


classifier = rewards.load_classifier("fashion-residual")
reward = rewards.Decoded(rewards.ClassLogProbability(classifier), rewards.from_signed)
ring = steer.analytic.ring()
print(steered(loaded(), Path("result")).shape, reward(torch.randn(2, 1, 28, 28), torch.arange(2)))
"""
WRONG = """
import steer

flow_map: steer.FlowMap = steer.load(3)
"""


def run(*command, cwd, **more):
    """Runs a command without this process's path, and returns what it prints."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=own, capture_output=True, text=True, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder with dist/, the sdist and the wheel built from it."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "tree").mkdir()
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]
    for name in tracked:
        target = folder / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-c", SDIST.format(folder / "dist"), cwd=folder / "tree")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", "dist", next((folder / "dist").glob("*.tar.gz")), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(released):
    """The Python of an environment with the wheel, and the dependencies of this process."""
    home = released / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=released)
    python = home / "bin" / "python"
    wheel = next((released / "dist").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    run(*pip, wheel, cwd=released)
    packages = run(python, "-c", "import site; print(*site.getsitepackages())", cwd=released)
    beside = "\n".join(p for p in sys.path if Path(p).name == "site-packages")
    Path(packages.split()[0], "dependencies.pth").write_text(f"{beside}\n")
    return python


@pytest.mark.slow
def test_the_wheel_and_the_sdist_hold_every_file_of_the_packages(released):
    tracked = {
        name
        for name in run("git", "ls-files", *PACKAGES, cwd=ROOT).splitlines()
        if Path(name).suffix in (".py", ".yaml", ".typed", ".safetensors", ".md", ".json")
    }
    assert {"steer/py.typed", "rewards/py.typed", "recipes/configs/fashion/steer.yaml"} <= tracked
    with zipfile.ZipFile(next((released / "dist").glob("*.whl"))) as wheel:
        assert tracked - {*wheel.namelist()} == set()
        others = {name.split("/")[0] for name in wheel.namelist()} - {*PACKAGES}
        assert [name.endswith(".dist-info") for name in others] == [True]
    with tarfile.open(next((released / "dist").glob("*.tar.gz"))) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert tracked - held == set()
    assert {"LICENSE", "README.md", "pyproject.toml"} <= held


@pytest.mark.slow
def test_the_installed_command_steers_outside_the_repository(installed, tmp_path):
    found = run(installed, "-c", "import steer; print(steer.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parents[1])
    words = ["sample", "fashion/steer", "particles=2", "sampler.steps=2", "--quiet"]
    folder = run(installed.with_name("steer"), *words, cwd=tmp_path).strip()
    metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
    assert metrics["claim"] == "exact"
    assert -50 < metrics["reward_mean"] < 0
    assert (tmp_path / folder / "grid.png").stat().st_size > 1000


@pytest.mark.slow
def test_public_names_pass_a_strict_type_checker(installed, tmp_path):
    """And a wrong argument does not, so that the types are seen."""
    (tmp_path / "mine.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(WRONG)
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed]
    run(*checker, "mine.py", cwd=tmp_path)
    said = subprocess.run([*checker, "wrong.py"], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 1
    assert "[arg-type]" in said.stdout
    assert "(10, 2, 1, 28, 28)" in run(installed, "mine.py", cwd=tmp_path).replace(
        "[", "("
    ).replace("]", ")")
