"""Shipped configs with one value replaced by a wrong one, each run by the command, in this process,
on next to nothing.

A mutant keeps to its config, its key and the kind of its wrong value; which of them are run is
drawn from a seed.
"""

import contextlib
import copy
import io
import random
import re
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from recipes import cli, compare
from recipes.reporting import html
from recipes.setup import config, run_directory
from recipes.setup.builders import make
from rewards import save_classifier
from rewards.networks import PatchClassifier, ResidualClassifier
from steer import checkpoint
from steer import plots as pictures

HUGE = 10**12
SECONDS = 60
JUMP = {"_target_": "steer.samplers.Jump", "steps": 1}
VALUES: dict[str, Any] = {
    "zero": 0,
    "minus one": -1,
    "one": 1,
    "three": 3,
    "one and a half": 1.5,
    "minus a half": -0.5,
    "a large number": 1e30,
    "true": True,
    "false": False,
    "null": None,
    "a word": "abc",
    "nothing in quotes": "",
    "a number in quotes": "1",
    "an empty list": [],
    "a list": [1, 2],
    "a list of a word": ["abc"],
    "a list of null": [None],
    "a list in a list": [[1]],
    "an empty dictionary": {},
    "a dictionary": {"a": 1},
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "nan in a list": [float("nan")],
    "infinity in a dictionary": {"a": float("inf")},
    "a huge whole number": HUGE,
    "a huge negative number": -HUGE,
    "a number beyond floats": 10**400,
    "a schedule": {"_target_": "steer.interpolant.Linear"},
    "a sampler": JUMP,
    "a look-ahead": {"_target_": "steer.lookahead.Denoiser"},
    "a function": {"_target_": "steer.build.resolve", "name": "steer.data.checkerboard"},
    "an unknown target": {"_target_": "steer.samplers.Jumpp"},
    "a target that is a number": {"_target_": 3},
    "a misspelt target": {"_traget_": "steer.samplers.Jump"},
    "a missing key": "${nowhere}",
    "a name in Python": "steer.samplers.Ode",
    "a missing file": "nowhere.py:f",
}
MISSPELT = "a misspelt key"
KINDS = [*VALUES, MISSPELT]
SOUND = {
    "zero",
    "one",
    "three",
    "minus one",
    "one and a half",
    "minus a half",
    "a large number",
    "true",
    "false",
    "null",
}
SHAPES = {"checkerboard": [2], "fashion": [1, 28, 28], "scenes": [3, 32, 32]}
OTHERS = ("model", "start", "loop", "reward", "heldout", "judge", "samplers", "the first step")
NOT_FINITE = {"nan", "infinity", "minus infinity", "nan in a list", "infinity in a dictionary"}

LINEAR = {"_target_": "steer.interpolant.Linear"}
CLASSES = {"_target_": "steer.networks.ClassCondition", "classes": 10, "dim": 32}
UNET = {"_target_": "steer.networks.UNet", "channels": [8], "blocks": 1, "condition": CLASSES}
IMAGES = {"_target_": "steer.flow_map.ResidualMap", "network": UNET, "schedule": LINEAR}
INSIDE = {
    **UNET,
    "beside": 1,
    "condition": {"_target_": "steer.networks.ContextCondition", "dim": 32, "condition": CLASSES},
}
INNER = {**IMAGES, "network": {"_target_": "steer.networks.WithContext", "network": INSIDE}}
TINY: dict[str, dict[str, Any]] = {
    "sample": {"particles": 3},
    "train": {"particles": 2, "trainer": {"max_steps": 1}},
    "tune": {"particles": 2, "trainer": {"max_steps": 1}, "loop": {"batch_size": 2}},
    "evaluate": {"particles": 4},
    "compare": {"particles": 2, "budgets": [20], "seeds": 1, "max_batch": 64},
    "verify": {"particles": 16, "prompts": 2, "steps": [1, 2], "worlds": ["ring"]},
}


@dataclass(frozen=True)
class Mutant:
    """A config with one wrong value at a key with dots, list places in brackets."""

    name: str
    key: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name}: {self.key} = {self.kind}"


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant: the exit code (None if it was not done in time), what was said, where
    it arose, and whether it
    had begun: numbers that run away then are named by sample and time.
    """

    mutant: Mutant
    code: int | None
    said: str
    where: str = ""
    ran: bool = False

    @property
    def fault(self) -> str:
        """What is wrong with that, or nothing."""
        lines = [line for line in self.said.splitlines() if not line.startswith("steer: warning: ")]
        if self.code not in (0, 1, 2):
            return "it does not end" if self.code is None else f"exit code {self.code}"
        if self.code == 2 and not (len(lines) == 1 and lines[0].startswith("steer: error: ")):
            return "more than one line"
        if self.code == 2 and not self.ran and not self.names_the_key:
            return "the key is not named"
        if self.code != 2 and self.mutant.kind in NOT_FINITE:
            return "what is not finite is accepted"
        return ""

    @property
    def names_the_key(self) -> bool:
        """Whether an error names the key, or, where it is about a part of it, one below; or else
        what it refers to.
        """
        key = re.sub(r"\[\d+\]", "", self.mutant.key)
        if key == "trainer.accelerator" and "device" in self.said:  # which is the same
            return True
        said = re.sub(r"\[\d+\]", "", self.said)
        above, _, last = key.rpartition(".")
        if self.mutant.kind == MISSPELT and f"{last[:-1]}zq" in self.said:
            return True
        if self.mutant.kind in SOUND and any(f"steer: error: {key}" in self.said for key in OTHERS):
            return True  # a value like others, which does not fit another key's
        if last == "_target_":  # the new one may refuse what stands beside it
            return above in said
        spoken = last in said if not above else re.search(rf"\b{re.escape(last)}\b", said)
        return key in said or (bool(above) and f"{above}" in said and bool(spoken))


class Laboratory:
    """An empty folder, with tiny maps in the place of the trained ones, and tiny data."""

    def __init__(self, folder: Path, clothes: str, patch: Callable[..., None]):
        for name in (
            "plane",
            "grid",
            "filmstrip",
            "curves",
            "training_curves",
            "cost_curves",
            "step_errors",
        ):
            patch(pictures, name, lambda *_, **__: None)  # pictures take longer than all else
        patch(html, "write", lambda *_, **__: None)
        patch(
            compare, "write", enough
        )  # when the methods have been tried, and before they are measured
        self.folder = folder
        # of published weights, which no test has; tests of rewards and of adapters run tiny ones
        away = ("preference/", "diffusers/", "pictures/")  # the last of a folder of one's own
        known = [name for name in config.shipped() if not name.startswith(away)]
        self.commands = {name: command_of(name) for name in known}
        self.whole = {name: whole(command, name) for name, command in self.commands.items()}
        self.tiny = {name: self.shrunk(name, clothes) for name in self.whole}
        torch.manual_seed(0)
        checkpoint.save(make(IMAGES), folder / "images.safetensors", IMAGES, shape=[1, 28, 28])
        checkpoint.save(make(INNER), folder / "inner.safetensors", INNER, shape=[1, 28, 28])
        save_classifier(folder / "steer.safetensors", ResidualClassifier(width=8))
        save_classifier(folder / "judge.safetensors", PatchClassifier(width=8, depth=1))
        for name in (
            "checkerboard/train",
            "checkerboard/velocity",
            "fashion/train",
            "fashion/refine",
            "fashion/distill",
            "scenes/refine",
        ):
            self.leave_map(name)

    def shrunk(self, name: str, clothes: str) -> dict[str, Any]:
        """What makes a config quick: tiny networks in the place of the shipped ones, few samples,
        few steps.
        """
        node = self.whole[name]
        command = self.commands[name]
        tiny = replaced(
            node, {"fashion-residual": "steer.safetensors", "fashion-patch": "judge.safetensors"}
        )
        tiny = config.merge(
            tiny,
            replaced(
                node, {"fashion": "images.safetensors", "fashion-posterior": "inner.safetensors"}
            ),
        )
        tiny = config.merge(tiny, copy.deepcopy(TINY[command]))
        for key in ("sampler", "base"):
            if isinstance(node.get(key), dict) and "steps" in node[key] and command != "verify":
                tiny[key] = {"steps": 2}
        if command in ("sample", "compare", "tune", "evaluate") and (
            node.get("condition") or {}
        ).get("labels"):
            tiny["condition"] = {"labels": node["condition"]["labels"][:2]}
        if command == "evaluate":
            tiny["samplers"] = {key: {"steps": 2} for key in node["samplers"]}
        if command == "compare":
            cheap = "best_of_N_by_1_jump"
            tiny["methods"] = {
                key: {"most": 1} for key, one in node["methods"].items() if one and key != cheap
            }
        if name == "ring/compare":
            tiny["model"] = {"steps": 1}
        if name.startswith("fashion") and command == "train":
            tiny["data"] = {"folder": clothes, "batch_size": 2}
            if name != "fashion/classifier":
                tiny["model"] = {"network": small(node["model"]["network"])}
        if node.get("pictures"):
            tiny["pictures"] = {
                "every": 1,
                "samplers": {key: {"steps": 1} for key in node["pictures"]["samplers"]},
            }
        if name.startswith("checkerboard") and command == "train":
            tiny["data"] = {"batch_size": 8}
            tiny["model"] = {"network": {"width": 4, "depth": 1}}
        if name.startswith("scenes") and command == "train":
            tiny["data"] = {"folder": "scenes", "batch_size": 2, "count": 4, "validation": 4}
        if name in ("scenes/train", "scenes/refine", "scenes/distill"):
            tiny["start"] = None if name == "scenes/train" else "runs/scenes-refine"
            condition = {"dim": 32, "width": 8}
            tiny["model"] = {"network": {"channels": [8, 8], "condition": condition}}
        elif name.startswith("scenes") and command == "train":
            towers = {"vision": {"width": 8}, "text": {"width": 8, "layers": 1, "heads": 2}}
            tiny["model"] = {"embed_dim": 8, **towers}
            tiny["model"]["vision"]["head_width"] = 8 if name == "scenes/clip" else 64
        if name.startswith("fashion") and node.get("reference"):
            tiny["reference"] = config.merge(
                tiny.get("reference", {}), {k: {"folder": clothes} for k in ("test", "train")}
            )
        if name in ("fashion/tune", "fashion/tune-jpeg"):
            tiny["loop"]["objective"] = {"redrawn": 2, "per_prompt": 2}
        if name == "worlds/tune":
            tiny["worlds"] = ["line-linear"]
            tiny["training"] = {"steps": 1, "batch_size": 8, "width": 4}
        if name == "checkerboard/evaluate":
            tiny["reference"] = {"draws": 100}
        return tiny

    def leave_map(self, name: str) -> None:
        """A map of the config, as if a run had left it."""
        tree: Any = OmegaConf.create(config.merge(self.whole[name], self.tiny[name]))
        model = OmegaConf.to_container(tree.model, resolve=True)
        shape = SHAPES[name.split("/")[0]]
        target = self.folder / "runs" / name.replace("/", "-")
        target.mkdir(parents=True)
        (target / "config.yaml").write_text("{}")
        checkpoint.save(make(model), target / "map.safetensors", model, shape=shape)

    def mutants(self) -> list[Mutant]:
        """All there are."""
        trees = {name: config.merge(tree, self.tiny[name]) for name, tree in self.whole.items()}
        return [
            Mutant(name, key, kind)
            for name, tree in trees.items()
            for key in keys_of(tree)
            for kind in KINDS
        ]

    def drawn(self, n: int, seed: int) -> list[Mutant]:
        """So many of them, without repetition, every config and every kind alike often."""
        generator = random.Random(seed)
        kinds = []
        keys = {
            name: list(keys_of(config.merge(tree, self.tiny[name])))
            for name, tree in self.whole.items()
        }
        found: dict[Mutant, None] = {}
        while len(found) < n:
            for name, own in keys.items():
                kinds = kinds or generator.sample(KINDS, len(KINDS))
                found[Mutant(name, generator.choice(own), kinds.pop())] = None
        return list(found)[:n]

    def content(self, mutant: Mutant) -> dict[str, Any]:
        """The file of a mutant."""
        tree = config.merge({"extends": mutant.name}, copy.deepcopy(self.tiny[mutant.name]))
        return put(tree, mutant, config.merge(self.whole[mutant.name], self.tiny[mutant.name]))

    def run(self, mutant: Mutant, command: str | None = None) -> Outcome:
        """The command on a mutant, stopped after SECONDS."""
        path = self.folder / "mutant.yaml"
        out = io.StringIO()
        err = io.StringIO()
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(self.content(mutant))))
        arose: list[str] = []
        words = [command or self.commands[mutant.name], str(path), "--quiet"]
        opened = len(run_directory.opened)
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            within(SECONDS),
            noted(arose),
        ):
            try:
                code: int | None = cli.main(words)
            except SystemExit as end:
                code = int(end.code or 0)
            except Enough:
                code = 0
            except TooLong:
                code = None
                arose.append(traceback.format_exc())
        return Outcome(
            mutant,
            code,
            err.getvalue(),
            arose[-1] if arose else "",
            len(run_directory.opened) > opened,
        )


def enough(*_: Any) -> None:
    """In the place of what is not worth its time."""
    raise Enough


class Enough(BaseException):
    """A mutant has come as far as is worth its time."""


class TooLong(BaseException):
    """A mutant that does not end."""


@contextlib.contextmanager
def within(seconds: int):
    """Raises TooLong inside the `with` after so many seconds."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def noted(arose: list[str]):
    """Keeps the traceback of an exception that nobody foresaw."""
    before = cli.unforeseen

    def unforeseen(error: Exception) -> str:
        arose.append("".join(traceback.format_exception(error)))
        return before(error)

    cli.unforeseen = unforeseen
    try:
        yield
    finally:
        cli.unforeseen = before


def command_of(name: str) -> str:
    """The command that a shipped config is for."""
    keys = config.extended(name)
    known = {"methods": "compare", "data": "train", "loop": "tune", "reference": "evaluate"}
    first = next((command for key, command in known.items() if key in keys), None)
    return first or ("sample" if "model" in keys else "verify")


def whole(command: str, name: str) -> dict[str, Any]:
    """A config with its defaults, its interpolations still in it."""
    tree = config.merge(config.read(config.CONFIGS / f"{command}.yaml"), config.extended(name))
    return {key: value for key, value in tree.items() if value is not None or command != "verify"}


def small(network: dict[str, Any]) -> dict[str, Any]:
    """What makes a network of images small: its condition has four times its channels."""
    if "network" in network:
        return {"network": small(network["network"])}
    condition: dict[str, Any] = {"dim": 32}
    if "condition" in network["condition"]:
        condition["condition"] = {"dim": 32}
    return {"channels": [8], "blocks": 1, "condition": condition}


def replaced(tree: Any, names: dict[str, str]) -> dict[str, Any]:
    """A file that puts other names in the place of these, wherever they are the whole value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and (below := replaced(value, names)):
            found[key] = below
        elif isinstance(value, str) and value in names:
            found[key] = names[value]
    return found


def keys_of(tree: Any, path: str = ""):
    """The keys of everything in a config, with dots."""
    rows = enumerate(tree) if isinstance(tree, list) else tree.items()
    for key, value in rows:
        here = f"{path}[{key}]" if isinstance(tree, list) else f"{path}.{key}" if path else str(key)
        if here != "extends":
            yield here
        if isinstance(value, dict | list) and not (isinstance(value, list) and len(value) > 4):
            yield from keys_of(value, here)


def put(tree: dict[str, Any], mutant: Mutant, old: dict[str, Any]) -> dict[str, Any]:
    """The file with the wrong value in it. Lists are written whole, so that one place in them can
    be wrong.
    """
    names = re.findall(r"[^.\[\]]+|\[\d+\]", mutant.key)
    here = tree
    there = old
    for depth, name in enumerate(names):
        place: Any = int(name[1:-1]) if name.startswith("[") else name
        if depth == len(names) - 1:
            break
        below = there[place]
        if isinstance(here, list):
            here = here[place]
            there = below
            continue
        if isinstance(below, list) or (
            isinstance(below, dict) and not isinstance(here.get(place), dict)
        ):
            here[place] = copy.deepcopy(below) if isinstance(below, list) else {}
        here = here[place]
        there = below
    if mutant.kind == MISSPELT:
        if isinstance(here, list):
            here[place] = {"stepz": 1}
        else:
            here.pop(place, None)
            here[f"{str(place)[:-1]}zq"] = copy.deepcopy(there[place])
    else:
        here[place] = copy.deepcopy(VALUES[mutant.kind])
    return tree
