"""docs/taxonomy.md from the objectives themselves: the settings behind each method's name.

python -m recipes.experiments.taxonomy      # writes the page; tests compare it with this
"""

import inspect
from pathlib import Path

from torch import nn

from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.training import METHODS, Joint, Plain
from steer.training.presets import Method, Setting

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "taxonomy.md"
STEPS = 100_000

HEAD = """# The taxonomy

Written by `python -m recipes.experiments.taxonomy` from the objectives themselves. A flow map is
characterised by its tangent, u_{t,t} = b_t, and any one of three identities; a method chooses one,
where the gradient stops, which target network is used and at which times:

| notion | identity | in the average velocity u |
|---|---|---|
| Lagrangian | d_t X_{s,t} = b_t(X_{s,t}) | u + (t-s) d_t u = b_t(x + (t-s) u) |
| Eulerian | d_s X_{s,t} + grad X_{s,t} b_s = 0 | u = b_s + (t-s) (d_s u + grad u b_s) |
| semigroup | X_{r,t} o X_{s,r} = X_{s,t} | u_{s,t} = (1-g) u_{s,r} + g u_{r,t}(X_{s,r}), \
r = g s + (1-g) t |

Or it does without: `Trajectory` follows a velocity b along x' = b_t(x) and compares the jumps with
the path, u_{s,t}(x_s) = (x_t - x_s) / (t - s).

Each name below is built by `steer.training.named(name, steps, student, teacher)`; in a config,
under `loop.objective`:
`{_target_: steer.training.named, name: lsd, steps: "${trainer.max_steps}"}`. Cost is of one sample
off the diagonal: F a forward of the network, J a forward with its derivative (about two), B a
backward; a sample on the diagonal costs 1 F + 1 B. `times=`, `weighting=` and any argument of
`Joint` change what a name stands for: `named("meanflow", steps, times=Uniform(),
weighting=Plain())` suits the plane, where the paper's settings, made for images, do badly
([measured](checkerboard.md)).

"""
COLUMNS = (
    "method",
    "notion",
    "derivative",
    "no gradient through",
    "learns from",
    "times",
    "cost",
    "paper",
    "file",
    "left out",
    "otherwise than the paper",
)


def page() -> str:
    """The whole page."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row(method)) + " |" for method in METHODS]
    return HEAD + "\n".join(lines) + "\n"


def row(method: Method) -> tuple[str, ...]:
    """The columns of one method."""
    blank = ResidualMap(nn.Identity(), Linear())
    joint = method.build(Setting(STEPS, blank, blank))
    off = joint.off_diagonal
    name = f"`{method.name}`"
    if off is None:
        return (
            name,
            "diagonal",
            "none",
            "nothing",
            "data",
            "s = t",
            "1 F + 1 B",
            method.paper,
            file_of(joint.diagonal),
            method.leaves_out,
            method.departs,
        )
    card = off.card
    return (
        name,
        card.notion,
        card.derivative,
        card.stop,
        ", ".join(joint.learns_from),
        times(joint),
        card.cost,
        method.paper,
        file_of(off),
        method.leaves_out,
        method.departs,
    )


def times(joint: Joint) -> str:
    """The distribution of times, and the weighting of the residuals at them."""
    if type(joint.weighting) is Plain:
        return joint.pairs.label
    return f"{joint.pairs.label}; weights {type(joint.weighting).__name__.lower()}"


def file_of(part: object) -> str:
    """The source, as a link from the page."""
    path = Path(inspect.getfile(type(part))).relative_to(ROOT)
    return f"[`{path.name}`](../{path})"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
