"""The loop that tunes a flow map to a reward."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from steer import counting
from steer.annotations import Count
from steer.conditions import check, for_particles
from steer.data.stream import step_loader
from steer.flow_map import Cond, FlowMap, ResidualMap
from steer.loops.base import Loop
from steer.tilt import Tilt
from steer.tuning.objective import RolloutObjective, TuningObjective

__all__ = ["RewardTuning"]

Prompts = Callable[[int, torch.Generator], Cond]


class Unprompted:
    """The prompts of an unconditional map: none."""

    def __call__(self, n: int, generator: torch.Generator) -> None:
        return None


class RewardTuning(Loop):
    """Minimises a tuning objective over x0 ~ N(0, I) and prompts.

    The base, the tilt and what the objective declares `frozen` are kept outside the module, so that
    they are neither trained, averaged nor saved. What the objective keeps between two collections
    of samples is saved, for each process.

    Args:
        flow_map: the map to tune; only its weights that require a gradient are.
        base: the map it started from, frozen and in eval mode.
        tilt: the reward and its scale, frozen likewise; a scale for each prompt comes with
            `prompts`, the conditions.
        objective: one of `steer.tuning`, or any other TuningObjective.
        shape: of one sample.
        batch_size: samples per step and process.
        prompts: prompts(n, generator) -> n conditions, of any kind, or None.
        per_prompt: samples of each prompt in a batch, side by side; by default what the objective
            needs.
        optimizer: lr, schedule, weight_decay, betas and seed of `Loop`.

    Raises:
        ValueError: a base that is the map itself, a scale for each prompt without the prompts, a
            batch that its prompts do not divide, or what the objective refuses.
    """

    def __init__(
        self,
        flow_map: ResidualMap,
        base: FlowMap,
        tilt: Tilt,
        objective: TuningObjective,
        shape: Sequence[int],
        batch_size: int,
        prompts: Prompts | None = None,
        per_prompt: Count | None = None,
        **optimizer: Any,
    ):
        super().__init__(**optimizer)
        if base is flow_map:
            raise ValueError(
                "base must be a frozen copy of flow_map, not flow_map itself: use copy.deepcopy"
            )
        if tilt.scale.ndim and tilt.prompts is None:
            raise ValueError(
                "tuning draws its prompts at random and cannot match a scale to its prompt by its"
                " place; give steer.Tilt(reward, scale, prompts=the condition of each)"
            )
        self.flow_map = flow_map
        self.objective = objective
        self.per_prompt = objective.per_prompt if per_prompt is None else per_prompt
        if self.per_prompt < objective.per_prompt or batch_size % self.per_prompt:
            raise ValueError(
                f"{type(objective).__name__} takes at least {objective.per_prompt} samples of each"
                " prompt, and they divide the batch; got"
                f" per_prompt={self.per_prompt}, batch_size={batch_size}"
            )
        check_base(flow_map, base, objective)
        objective.prepare(flow_map, base, tilt)
        flow_map.interpolates = flow_map.interpolates and objective.interpolates
        self.frozen = (base, tilt)  # a tuple hides modules from torch
        self.shape = tuple(shape)
        self.batch_size = batch_size
        self.prompts = prompts or Unprompted()
        self.spent = counting.Evaluations()
        self.begun = -1  # the last step that the objective has begun
        self.before: dict[str, Any] = {}  # what it kept then, beside weights

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.draw, self.seed, self.trainer)

    def draw(self, generator: torch.Generator) -> tuple[Cond]:
        """Draws the prompts of one step, in a tuple of one."""
        number = self.batch_size // self.per_prompt
        prompts = self.prompts(number, generator)
        check(prompts, number, "prompt")
        return (for_particles(prompts, self.per_prompt),)

    def product(self) -> FlowMap:
        """Builds the tuned model, which is the map itself for most objectives."""
        return self.objective.product(self.flow_map, self.frozen[0])

    def on_fit_start(self) -> None:
        for part in (*self.frozen, *self.objective.frozen):
            part.to(self.device)
        reuse = getattr(self.objective, "reuse", 1)
        if reuse > 1 and self.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                "samples are kept over several steps or a step is accumulated over several batches,"
                f" not both; got reuse={reuse} and"
                f" accumulate_grad_batches={self.trainer.accumulate_grad_batches}"
            )

    def training_step(self, batch: tuple[Cond], batch_idx: int) -> Tensor:
        base, tilt = self.frozen
        generator = self.step_generator(batch_idx)
        x0 = torch.randn(self.batch_size, *self.shape, generator=generator, device=self.device)
        step = self.global_step
        if self.begun != step:
            self.objective.begin(self.flow_map, step)
            self.begun = step
        self.before = kept_beside_weights(self.objective)
        with counting.count() as self.tally:  # backwards are counted later, in Lightning's backward
            loss = self.objective(self.flow_map, base, tilt, x0, batch[0], generator, step)
        return self.report(loss, self.batch_size)

    def on_after_backward(self) -> None:
        """Adds what the step cost to what the run has cost, over all processes, and logs it."""
        ranks = self.trainer.world_size
        step = asdict(self.tally)
        spent = {name: n + ranks * step[name] for name, n in asdict(self.spent).items()}
        self.spent = counting.Evaluations(**spent)
        self.log_dict({f"spent/{name}": float(n) for name, n in spent.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spent"] = asdict(self.spent)
        checkpoint["begun"] = self.begun
        within_step = self.begun == self.global_step  # stopped in it; it will be taken again
        beside = self.before if within_step else kept_beside_weights(self.objective)
        checkpoint["beside"] = self.gathered(beside)
        checkpoint["objective"] = type(self.objective).__name__
        if isinstance(self.objective, RolloutObjective):
            checkpoint["kept"] = self.gathered(self.objective.kept_state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes what was saved.

        Raises:
            ValueError: a checkpoint of another objective, or of another number of processes while
                samples are kept.
        """
        before = checkpoint.get("objective")
        if before != type(self.objective).__name__:
            raise ValueError(
                f"loop.objective: the checkpoint was tuned by {before}, this run tunes by"
                f" {type(self.objective).__name__}; resume with its config"
            )
        self.spent = counting.Evaluations(**checkpoint["spent"])
        self.begun = checkpoint["begun"]
        rank = self.global_rank if len(checkpoint["beside"]) == self.trainer.world_size else 0
        beside = {f"objective.{name}": value for name, value in checkpoint["beside"][rank].items()}
        if self.device_mesh is None:
            checkpoint["state_dict"].update(beside)
        else:  # its weights have been loaded already
            self.load_state_dict(beside, strict=False)
        if isinstance(self.objective, RolloutObjective):
            kept = checkpoint["kept"]
            if all(samples is None for samples in kept):
                kept = [None] * self.trainer.world_size
            if len(kept) != self.trainer.world_size:
                raise ValueError(
                    f"the checkpoint keeps the samples of {len(kept)} processes, and there are"
                    f" {self.trainer.world_size}; resume with as many"
                )
            self.objective.keep(kept[self.global_rank], self.device)

    def gathered(self, mine: Any) -> list[Any]:
        """Gathers an object of every process, in order."""
        if self.trainer.world_size == 1:
            return [mine]
        everyone = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, mine)
        return everyone


def kept_beside_weights(objective: TuningObjective) -> dict[str, Any]:
    """Copies the buffers and extra state of an objective, as its state_dict has them."""
    weights = {name for name, _ in objective.named_parameters()}
    copied = [name for name, _ in objective.named_buffers() if not is_of_copy(name)]
    state = objective.state_dict()
    return {
        name: copy.deepcopy(value)
        for name, value in state.items()
        if name not in weights and (name in copied or name.endswith("_extra_state"))
    }


def is_of_copy(name: str) -> bool:
    """Whether a buffer belongs to a copy of the map, which a step does not change."""
    return ".map." in f".{name}"


def check_base(flow_map: FlowMap, base: FlowMap, objective: TuningObjective) -> None:
    """Raises ValueError for a base that the map or the objective does not go with."""
    if flow_map.schedule != base.schedule:
        raise ValueError(
            f"the map is on the path {flow_map.schedule}, its base on {base.schedule}; give both"
            " the same"
        )
    needs = objective.claim in ("exact", "near") and not objective.any_base
    if needs and not base.score_matches_flow:
        raise ValueError(
            f"{type(objective).__name__} is {objective.claim} for a base whose velocity is that of"
            " an interpolant, which guidance and transport change; distil the base first, or use"
            " RewardWeighted, which takes only its samples"
        )
