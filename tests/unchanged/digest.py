"""Digests of seeded results, held to the last bit against those of the code before the house was
rebuilt.

STEER_RECORD=1 python -m pytest tests/unchanged     # writes recorded.json anew
"""

import hashlib
import json
import os
from pathlib import Path

import torch

KEPT = Path(__file__).with_name("recorded.json")
RECORD = bool(os.environ.get("STEER_RECORD"))


def digest(value):
    """Sixteen hex digits of a tensor's bytes; a container's, item by item; a number's repr."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        head = f"{value.dtype} {tuple(value.shape)}".encode()
        return hashlib.sha256(
            head + value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else head
        ).hexdigest()[:16]
    if isinstance(value, dict):
        return {str(name): digest(part) for name, part in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [digest(part) for part in value]
    return repr(value)


def unchanged(name, value):
    """Asserts that a result is what it was."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    found = json.loads(json.dumps(digest(value)))
    if RECORD:
        KEPT.write_text(json.dumps({**kept, name: found}, indent=0, sort_keys=True) + "\n")
        return
    assert found == kept[name]
