"""Sampling that is killed again and again ends in the folder of sampling that was not.

    python tests/killed.py [PROMPTS] [KILLS]

draws PROMPTS prompts of four particles on a tiny random map, whole and killed KILLS times at random
moments, with SIGKILL and all of its processes, on one process and on two; then compares the run
folders file by file, bit by bit, seconds apart. 1000 prompts and 3 kills without arguments.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from run_folders import contents, differing

from steer import checkpoint
from steer.build import build

ROOT = Path(__file__).parents[1]
PARTICLES = 4
AT_ONCE = 20
MAP = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {
        "_target_": "steer.networks.UNet",
        "channels": [8],
        "blocks": 1,
        "condition": {"_target_": "steer.networks.ClassCondition", "classes": 10, "dim": 32},
    },
    "schedule": {"_target_": "steer.interpolant.Linear"},
}
CONFIG = """
model: map.safetensors
condition: {labels: LABELS}
particles: PARTICLES
prompts_at_once: AT_ONCE
reward: {_target_: rewards.Brightness}
reward_decode: rewards.from_signed
tilt: {scale: 5.0}
sampler: {_target_: steer.samplers.TrajectoryTilting, steps: 4, film: 1}
base: {_target_: steer.samplers.Ode, steps: 2}
images: plain
device: cpu
"""


def prepare(prompts: int) -> None:
    """Leaves the map and the config in this folder."""
    torch.manual_seed(0)
    checkpoint.save(build(MAP), Path("map.safetensors"), MAP, shape=[1, 8, 8])
    labels = str([k % 10 for k in range(prompts)])
    config = CONFIG.replace("LABELS", labels).replace("PARTICLES", str(PARTICLES))
    Path("sample.yaml").write_text(config.replace("AT_ONCE", str(AT_ONCE)))


def started(folder: str, processes: int) -> subprocess.Popen:
    """The run, new or resumed, in a group of processes of its own."""
    words = ["sample", "sample.yaml", f"run.dir={folder}", f"devices={processes}", "--quiet"]
    if (Path(folder) / "config.yaml").exists():
        words.append("run.resume=true")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recipes.cli", *words]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def ended(folder: str, processes: int) -> None:
    """Runs it to its end."""
    code = started(folder, processes).wait()
    assert code == 0, f"{folder} ended with code {code}"


def finished(folder: str) -> int:
    """How many parts are kept."""
    return len(list((Path(folder) / "parts").glob("*.safetensors")))


def killed(folder: str, processes: int, parts: int, kills: int, rng: random.Random) -> list[str]:
    """Kills the run at random moments, each after a random part, and says when that was."""
    said = []
    moments = sorted(rng.sample(range(1, parts), kills))
    for moment in moments:
        run = started(folder, processes)
        while run.poll() is None and finished(folder) < moment:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        said.append(f"{finished(folder)} of {parts}")
    ended(folder, processes)
    return said


def compare(prompts: int, kills: int, seed: int = 0) -> list[str]:
    """Runs all in this folder; a line for what was done and found of each."""
    prepare(prompts)
    ended("whole", 1)
    files = contents("whole")
    lines = [f"whole, 1 process: {len(files)} files, {prompts} prompts x {PARTICLES} particles"]
    parts = -(-prompts // AT_ONCE)
    rng = random.Random(seed)
    for processes in (1, 2):
        folder = f"killed-{processes}"
        said = killed(folder, processes, parts, kills, rng)
        unlike = differing("whole", folder)
        verdict = "bit-equal" if not unlike else f"DIFFERENT in {', '.join(unlike[:5])}"
        lines.append(f"killed after {' and '.join(said)} parts, {processes} process(es): {verdict}")
    return lines


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        print(*compare(*(numbers + [1000, 3][len(numbers) :])), sep="\n")
