"""The schema of configs: the keys of each command and the kinds of their values, as annotations.

`check(command, config)` checks a whole config before anything is built, and names the first value
that does not fit, what was expected and how to change it. The keys inside a node with a `_target_`
are checked against the annotations of its target.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_type_hints

from torch import Tensor, nn

from recipes.evaluation.reference import Reference
from recipes.setup.config import DOTTED
from rewards.base import Reward
from rewards.networks import ImageEncoder
from steer.annotations import (
    PLAIN,
    Above,
    AtLeast,
    AtMost,
    Count,
    NotNegative,
    Positive,
    annotated,
    line,
    misfit,
)
from steer.build import examine, resolve
from steer.flow_map import FlowMap
from steer.guidance import Guidance
from steer.samplers import Sampler

Shape = Annotated[Sequence[Count], AtLeast(1)]
RewardLike = str | Reward | Callable[..., Any]
MADE = "made by a node"  # marks plain values that a node with a `_target_` may make
Texts = str | Annotated[Sequence[str], AtLeast(1), MADE]


class Section:
    """A section of a config that recipes read themselves, with annotated keys."""


class Run(Section):
    """run."""

    dir: str | None
    resume: bool


class Common(Section):
    """The keys of every command."""

    seed: int
    run: Run


class Condition(Section):
    """condition."""

    labels: Annotated[Sequence[int | str], AtLeast(1)] | None
    names: Sequence[Any] | str | None
    model: bool


class Sampling(Common):
    """The keys of all commands that draw samples of a map."""

    model: str | FlowMap
    shape: Shape | None
    condition: Condition
    prompt: Texts | None
    prompts: Count | str
    particles: Count
    reward_decode: str | Callable[[Tensor], Any] | None
    device: str
    trust: Sequence[str]


class Scale(Section):
    """tilt."""

    scale: float | Annotated[Sequence[float], AtLeast(1)]
    on_nonfinite: Literal["raise", "reject"]


class Stop(Section):
    """stop."""

    by: str | None
    patience: Count


class Rewarded(Sampling):
    """The keys of all commands that evaluate a reward."""

    reward: RewardLike | None
    heldout: RewardLike | Sequence[RewardLike] | None
    judge: ImageEncoder | None
    tilt: Scale


class Shared(Section):
    """The keys of commands that share their work among processes."""

    devices: Count | None
    nodes: Count | None


class Sample(Rewarded, Shared):
    """steer sample."""

    prompts_at_once: Count
    images: Literal["plain", "geneval"] | None
    guidances: Sequence[Guidance | FlowMap]
    sampler: Sampler
    base: Sampler


class Evaluate(Sampling, Shared):
    """steer evaluate."""

    prompts_at_once: Count
    guidances: Sequence[Guidance | FlowMap]
    samplers: dict[str, Sampler | None]
    reference: Reference


class Method(Section):
    """One of methods."""

    sampler: Sampler
    size: str | None
    candidates: Count | None
    most: Positive | None


class Price(Section):
    """price."""

    backward: NotNegative
    reward_forward: NotNegative
    reward_backward: NotNegative


class Compare(Rewarded, Shared):
    """steer compare."""

    methods: dict[str, Method | None]
    budgets: Annotated[Sequence[Annotated[float, Above(0), AtMost(1e7)]], AtLeast(1)]
    seeds: Count | Annotated[Sequence[int], AtLeast(1)] | None
    price: Price
    max_batch: Count


class Trained(Section):
    """training."""

    steps: Count
    batch_size: Count
    lr: Positive
    width: Count


class Verify(Common):
    """steer verify."""

    sampler: Sampler | None
    objective: nn.Module | None
    training: Trained
    steps: Count | Shape
    worlds: str | Annotated[Sequence[str], AtLeast(1)]
    prompts: Annotated[int, AtLeast(2)]
    rounds: Count
    particles: Count


def learning() -> tuple[type[Section], type[Section]]:
    """steer train and steer tune, which need Lightning."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    from steer.loops import Ema, Pictures, RewardTuning

    class Train(Sampling):
        """steer train."""

        model: nn.Module  # type: ignore[assignment]
        start: str | None
        teacher: str | None
        data: LightningDataModule
        loop: LightningModule
        ema: Ema
        trainer: Trainer
        logger: Literal["tensorboard", "wandb"]
        checkpoint_every: Count
        identities: Annotated[int, AtLeast(0)] | None
        pictures: Pictures | None

    class Tune(Rewarded):
        """steer tune."""

        tuning_prompt: Texts | None
        loop: RewardTuning
        lora: nn.Module | None
        merge: bool
        ema: Ema
        trainer: Trainer
        logger: Literal["tensorboard", "wandb"]
        checkpoint_every: Count
        watch_every: Count
        stop: Stop
        reference: Reference | None
        sampler: Sampler

    return Train, Tune


def schema_of(command: str) -> type[Section]:
    """The keys of a command."""
    if command in ("train", "tune"):
        return learning()[command == "tune"]
    return {"sample": Sample, "evaluate": Evaluate, "compare": Compare, "verify": Verify}[command]


def check(command: str, config: dict[str, Any]) -> None:
    """Raises ValueError at the first value that is not of its key's kind.

    Plain values are checked first, since nodes may refer to them.

    Args:
        command: whose keys they are.
        config: plain dictionaries, complete, without interpolations.
    """
    known = hints(schema_of(command))
    plain = [key for key, value in config.items() if not is_built(value)]
    copied = ["device"] if "trainer" in config else []  # by default trainer.accelerator
    others = (key for key in config if key not in plain)
    nodes = sorted(others, key=lambda key: key != "trainer")  # the rest may refer to its steps
    for key in [*(key for key in plain if key not in copied), *nodes, *copied]:
        check_key(config[key], known.get(key, Any), key)
    if "trainer" in config:
        check_length(config["trainer"])


def targeted(command: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config in which the dotted name of a class stands for a node with that `_target_`.

    Only where an object fits and a text does not.
    """
    known = hints(schema_of(command))
    return {key: with_target(value, known.get(key, Any)) for key, value in config.items()}


def with_target(value: Any, annotation: Any) -> Any:
    """The value of a key, and what is inside it, with names of classes replaced by nodes."""
    if isinstance(value, str):
        named = DOTTED.fullmatch(value) is not None and only_objects(annotation)
        return {"_target_": value} if named else value
    if isinstance(value, list):
        of_items = [one for one in options(annotation) if getattr(one, "__origin__", None)]
        inner = of_items[0].__args__[0] if of_items else Any
        return [with_target(item, inner) for item in value]
    if not isinstance(value, dict):
        return value
    kinds = kinds_below(value, annotation)
    return {key: with_target(item, kinds(key)) for key, item in value.items()}


def kinds_below(value: dict[str, Any], annotation: Any) -> Callable[[str], Any]:
    """The annotations of the keys of a section, of named values, or of a node's arguments."""
    target = value.get("_target_")
    if isinstance(target, str):
        try:
            known = annotated(resolve(target))
        except ValueError:  # which is refused, with its reason, when all is checked
            return lambda key: Any
        return lambda key: known[key].annotation if key in known else Any
    inner = of_values(annotation)
    if inner is not None:
        return lambda key: inner
    section = next(
        (one for one in options(annotation) if isinstance(one, type) and issubclass(one, Section)),
        None,
    )
    return lambda key: Any if section is None else hints(section).get(key, Any)


def only_objects(annotation: Any) -> bool:
    """Whether instances of a class fit, and texts do not."""
    kinds = options(annotation)
    plain = (Any, object, *PLAIN, type(None), dict, list, tuple)
    return str not in kinds and any(
        isinstance(one, type) and one not in plain and not issubclass(one, Section) for one in kinds
    )


def hints(section: type[Section]) -> dict[str, Any]:
    """The keys of a section, with their annotations."""
    return get_type_hints(section, include_extras=True)


def check_key(value: Any, annotation: Any, path: str) -> None:
    """Raises ValueError if a value, or one inside it, does not fit the annotation of its key.

    Args:
        value: plain, or nested dictionaries and lists.
        annotation: what was asked for.
        path: the dotted key.
    """
    section = next(
        (one for one in options(annotation) if isinstance(one, type) and issubclass(one, Section)),
        None,
    )
    if section is not None and not (value is None and type(None) in options(annotation)):
        if not isinstance(value, dict):
            keys = ", ".join(hints(section))
            raise ValueError(f"{path} is a section with the keys {keys}; got {value!r}")
        for key, item in value.items():
            check_key(item, hints(section).get(key, Any), f"{path}.{key}")
        return
    inner = of_values(annotation)
    if inner is not None and isinstance(value, dict) and "_target_" not in value:
        for key, item in value.items():
            check_key(item, inner, f"{path}.{key}")
        return
    found = misfit(
        examine(value, path) if takes_objects(annotation, value) else value,
        annotation,
        path.rpartition(".")[2],
    )
    if found is not None:
        raise ValueError(line(f"{path}{found.where}", found) + advice(value, path))


def advice(value: Any, path: str) -> str:
    """How to set another value."""
    return "" if isinstance(value, dict) else f"; set it with {path}=..."


def options(annotation: Any) -> tuple:
    """The alternatives of a union; the annotation alone, of any other."""
    return getattr(annotation, "__args__", ()) if is_union(annotation) else (annotation,)


def takes_objects(annotation: Any, value: Any) -> bool:
    """Whether a node may stand for the value, or for items of it.

    One of the options is a class of objects, a function, or marked as MADE.
    """
    plain = (*PLAIN, type(None))
    return any(
        (isinstance(one, type) and one not in plain)
        or (MADE in getattr(one, "__metadata__", ()) and is_built(value))
        or getattr(one, "__origin__", None) is Callable
        or (
            getattr(one, "__origin__", None) is Sequence
            and isinstance(value, list)
            and takes_objects(one.__args__[0], None)
        )
        for one in options(annotation)
    )


def is_union(annotation: Any) -> bool:
    """Whether an annotation is of several kinds."""
    return isinstance(annotation, type(int | None)) or str(annotation).startswith("typing.Union")


def of_values(annotation: Any) -> Any:
    """The annotation of the values of a dictionary; None for what is no dictionary."""
    return annotation.__args__[1] if getattr(annotation, "__origin__", None) is dict else None


def is_built(value: Any) -> bool:
    """Whether a value is, or holds, a node with a `_target_`."""
    if isinstance(value, dict):
        return "_target_" in value or any(is_built(item) for item in value.values())
    return isinstance(value, list) and any(is_built(item) for item in value)


def check_length(trainer: dict[str, Any]) -> None:
    """Raises ValueError for a training without a step, or without an end."""
    steps = trainer.get("max_steps")
    bounds = [trainer.get("max_epochs"), trainer.get("max_time")]
    bounded = steps == -1 and any(bound not in (None, -1) for bound in bounds)
    if isinstance(steps, int) and steps < 1 and not bounded:
        raise ValueError(
            "trainer.max_steps is a whole number, at least 1 (or -1, with trainer.max_epochs);"
            f" got {steps};"
            " set it with trainer.max_steps=..."
        )
    if steps is None:
        raise ValueError(
            "trainer.max_steps is a whole number, at least 1; got None; set it with"
            " trainer.max_steps=..."
        )
