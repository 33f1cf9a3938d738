"""Commands in processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds; on a quiet machine it takes ten
STEER = [sys.executable, "-m", "recipes.cli"]


def ended(words, launcher=STEER, **more):
    """The command in a process of its own, ended; killed with all that it started when it takes
    too long.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more
    process = subprocess.Popen(
        [*launcher, *words, "--quiet"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"steer {words[0]} had not ended after {LIMIT} s")
    return process.returncode, out, err
