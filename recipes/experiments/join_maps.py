"""Join a conditional and an unconditional map into one: a label, or none, chooses the network.

python -m recipes.experiments.join_maps fashion runs/fashion-unconditional joined.safetensors
"""

import sys
from pathlib import Path
from typing import Any

from steer import checkpoint
from steer.build import build
from steer.flow_map import ResidualMap
from steer.networks import ByCondition


def join(conditional: str, unconditional: str, path: str | Path) -> ResidualMap:
    """Writes the joined map; both parts are residual maps on one path."""
    names = (conditional, unconditional)
    networks = []
    for name in names:
        part = checkpoint.load(name)
        if not isinstance(part, ResidualMap):
            raise ValueError(f"{name} is a {type(part).__name__}; join maps of steer.ResidualMap")
        networks.append(part.network)
    first, second = (checkpoint.read_header(checkpoint.find(name)) for name in names)
    recipe: dict[str, Any] = dict(first["build"])
    recipe["network"] = {
        "_target_": "steer.networks.ByCondition",
        "conditional": first["build"]["network"],
        "unconditional": second["build"]["network"],
    }
    joined = build(recipe)
    joined.network = ByCondition(*networks)
    checkpoint.save(joined, path, recipe, shape=first.get("shape"), joined=list(names))
    return joined


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("expected three arguments: conditional unconditional out.safetensors")
    join(*sys.argv[1:])
