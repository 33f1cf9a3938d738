"""The worlds and zoos of the other tests."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / room) for room in ("", "samplers", "training", "tuning")]
