"""64 prompts of 8 particles in one batch: seconds, evaluations and peak memory.

    python -m recipes.experiments.scenes_batch      # ten minutes on one core

Each way of steering the map of captioned scenes by a CLIP runs in a process of its own, so that the
peak of its memory is its own; that of a process which only loads map and CLIP is taken off.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

import steer
from recipes.experiments.cells import Cells
from recipes.experiments.findings import Finding, table, thousands
from recipes.experiments.scenes_tuning import CLIP, MAP, SHAPE, WEIGHTS, reward_by
from steer.data.scenes import scene_captions
from steer.lookahead import Denoiser, MapJump
from steer.samplers import FkSteering, Jump, Sampler, TrajectoryTilting, ValueGuided
from steer.tilt import Tilt

PROMPTS, PARTICLES = 64, 8
MAX_BATCH = 64
LOADED = "loaded"
SAMPLERS: dict[str, Sampler] = {
    "4 jumps": Jump(4, max_batch=MAX_BATCH),
    "FMTT, 25 steps": TrajectoryTilting(25, MapJump(), eps=3.0, max_batch=MAX_BATCH),
    "denoiser-guided, 25 steps": ValueGuided(25, Denoiser(), eps=4.0, max_batch=MAX_BATCH),
    "FK steering, 25 steps": FkSteering(25, every=5, max_batch=MAX_BATCH),
}


def run(name: str) -> dict[str, float]:
    """Seconds, forward-equivalents a sample and peak megabytes, in this process."""
    flow_map = steer.load(MAP)
    tilt = Tilt(reward_by(CLIP), 60.0)
    captions = scene_captions("heldout", PROMPTS, 51)
    x0 = torch.randn(PROMPTS, PARTICLES, *SHAPE, generator=torch.Generator().manual_seed(0))
    tilt(x0[:1, 0], captions[:1], 1.0)
    start = time.perf_counter()
    spent = 0.0
    if name != LOADED:
        generator = torch.Generator().manual_seed(1)
        result = SAMPLERS[name](flow_map, x0, tilt, captions, generator)
        spent = result.evaluations.forward_equivalents()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.perf_counter() - start, "evaluations": spent, "megabytes": peak}


def in_a_process(name: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "recipes.experiments.scenes_batch", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def results(cells: Mapping[str, Any]) -> str:
    """A row for each sampler."""
    idle = cells[LOADED]["megabytes"]
    rows = []
    for name in SAMPLERS:
        cell = cells[name]
        per_sample = cell["evaluations"]
        all_of_them = per_sample * PROMPTS * PARTICLES
        rows.append(
            [
                name,
                f"{per_sample:.1f}",
                thousands(cell["seconds"]),
                f"{1000 * cell['seconds'] / all_of_them:.1f}",
                thousands(cell["megabytes"] - idle),
            ]
        )
    head = ["", "evaluations a sample", "seconds", "ms an evaluation", "peak MiB above loading"]
    return table(head, rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """The largest peak of memory."""
    peak = max(cells[name]["megabytes"] for name in SAMPLERS) - cells[LOADED]["megabytes"]
    return [
        Finding(
            f"{PROMPTS} prompts of {PARTICLES} particles in one batch, in chunks of {MAX_BATCH}",
            "below 1000 MiB",
            f"{peak:.0f} MiB",
            peak < 1000,
        )
    ]


def main() -> None:
    kept = Cells("scenes_batch", WEIGHTS)
    for name in (LOADED, *SAMPLERS):
        kept.get(name, partial(in_a_process, name))
    print(results(kept.cells))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run(sys.argv[1])))
    else:
        main()
