"""steer tune: a flow map tuned to a reward, beside the map it started from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from recipes.evaluate import compared, labels_of
from recipes.evaluation import collapse
from recipes.evaluation.metrics import Figures, whole
from recipes.evaluation.reference import Reference
from recipes.reporting import html
from recipes.reporting.figures import Picture, gallery_of
from recipes.reporting.publish import Headline, publish
from recipes.reporting.tables import comparison, estimate, spent_table
from recipes.setup import run_directory
from recipes.setup.builders import made_as, make, sampler_of
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.setup.prompts import texts_at
from recipes.train import curves
from recipes.training import trainable
from recipes.training.checkpoints import origin
from recipes.training.eval_callback import EvalCallback
from recipes.training.trainer import check_trainer, fit
from steer.flow_map import FlowMap, ResidualMap
from steer.loops import Ema, RewardTuning
from steer.samplers import Result
from steer.tuning import DiagonalTuning, TuningObjective


def tune(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = job.config
    torch.manual_seed(config.seed)  # initial weights of adapters
    experiment = experiment_of(config, scale_by_condition=True)
    sampler = sampler_of(config.sampler)
    reference = reference_of(config)
    check_stop(config)
    ema = made_as(Ema, config.ema)
    tuned = trainable.learner_of(experiment.model.flow_map, config)
    loop = loop_of(config, experiment, tuned)
    check_trainer(config)
    folder = run_directory.opened_for(config)

    def drawn_from(flow_map: FlowMap) -> Result:
        return experiment.draw(sampler, None, "tune", flow_map)

    def watched(flow_map: FlowMap, step: int) -> Figures:
        result = drawn_from(flow_map)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            draw_watched(experiment, result, folder / "watch" / f"step_{step:06d}")
        return measured(experiment, result, reference)[0]

    with bar("before", job.quiet):
        before = drawn_from(experiment.flow_map)
        figures_before, of_before = measured(experiment, before, reference)
    stop = config.stop
    watch = EvalCallback(
        watched, config.watch_every, ema, stop.by, stop.patience, first=figures_before
    )
    fitted = fit(loop, None, folder, job, ema, [watch])
    best = watch.put_best(loop)
    with bar("after", job.quiet):
        after = drawn_from(loop.to(experiment.device).eval().product())
    sizes = trainable.parameters(tuned)
    about = origin(job, fitted.steps)
    trainable.save(loop.product(), tuned, folder, config, experiment.model, **about)

    figures_after, of_after = measured(experiment, after, reference)
    last = {"step": fitted.steps if best is None else best, **figures_after}
    floor = floor_of(experiment, reference)
    metrics: Figures = {
        "method": type(loop.objective).__name__,
        "claim": loop.objective.claim,
        "heldout_rewards": experiment.measure.heldout_names,
        **figures_after,
        **without_weights(loop),
        "distance_to_base": float((after.x - before.x).flatten(2).norm(dim=2).mean()),
        **sizes,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        **{f"base_{name}": value for name, value in figures_before.items()},
        "frechet_floor": floor,
        "kept_step": best,
        "warnings": collapse.signs([*until(watch.course, last["step"]), last], floor),
    }
    samples = gallery_of(experiment, folder).samples(
        {"base": before, "tuned": after},
        measured={"base": of_before, "tuned": of_after},
        data=None if reference is None else reference.examples(labels_of(experiment)),
    )
    return reported(folder, job, metrics, [*samples, *curves(folder)])


def draw_watched(experiment: Experiment, result: Result, folder: Path) -> None:
    """Draws the samples of a step into a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    gallery_of(experiment, folder).samples({"tuned": result})


def until(course: Sequence[Figures], step: int) -> list[Figures]:
    """The figures of the steps before this one."""
    return [figures for figures in course if figures["step"] < step]


def loop_of(config: DictConfig, experiment: Experiment, tuned: ResidualMap) -> RewardTuning:
    """The loop of the config, with an objective whose product can be saved.

    Raises:
        ValueError: another kind of loop or objective, or a product that could not be saved.
    """
    loop = make(
        config.loop,
        flow_map=tuned,
        base=experiment.flow_map,
        tilt=experiment.required_tilt(),
        shape=experiment.model.shape,
        prompts=trainable.Labels(texts_at(config, "tuning_prompt") or experiment.prompts.cond),
    )
    objective = objective_of(loop)
    trainable.check_product(loop.product(), tuned)
    if not config.condition.model and isinstance(objective, DiagonalTuning):
        objective.labelled = False
    return loop


def without_weights(loop: RewardTuning) -> Figures:
    """The figures of a sampler's weights, of which a tuned map has none, and what tuning cost."""
    return {"log_z": None, "ess_min": None, "resamples": 0, "evaluations": whole(loop.spent)}


def reported(folder: Path, job: Job, metrics: Figures, drawn: Sequence[Picture]) -> Path:
    """Writes the report."""
    tables = [comparison(metrics, "base", "tuned"), spent_table(metrics)]
    title = f"{metrics['method']}: {folder.name}"
    claim_line = html.TUNED[metrics["claim"]]
    return publish(folder, job, metrics, title, claim_line, drawn, tables, headline(metrics))


def reference_of(config: DictConfig) -> Reference | None:
    """The reference of the config, or None."""
    if config.reference is None:
        return None
    return made_as(Reference, config.reference)  # type: ignore[type-abstract]


def check_stop(config: DictConfig) -> None:
    """Raises ValueError for a stop by a figure that the config does not have measured."""
    held = config.heldout if isinstance(config.heldout, ListConfig) else [config.heldout]
    known = ["reward_mean", "diversity"]
    if config.heldout is not None:
        more = [f"heldout_reward_{k}_mean" for k in range(2, len(held) + 1)]
        known += ["heldout_reward_mean", *more]
    if config.judge is not None:
        known.append("judge_accuracy")
    if config.reference is not None:
        known.append("frechet_distance")
    if config.stop.by is not None and config.stop.by not in known:
        raise ValueError(
            f"stop.by is a figure of the samples, one of {', '.join(known)}; got {config.stop.by}"
        )


def measured(
    experiment: Experiment, result: Result, reference: Reference | None
) -> tuple[Figures, dict[str, Tensor]]:
    """The figures of samples, against the reference too where there is one, and of each prompt."""
    of_prompts = experiment.measure.by_prompt(result)
    figures = experiment.measure.figures(of_prompts)
    if reference is not None:
        figures = {**compared(experiment, result, reference, labels_of(experiment)), **figures}
    return figures, of_prompts


def floor_of(experiment: Experiment, reference: Reference | None) -> float | None:
    """The Frechet distance to the reference of as many real samples, where it is measured."""
    if reference is None:
        return None
    prompts, particles = experiment.noise.shape[:2]
    return reference.floor(prompts * particles, labels_of(experiment)).get("frechet_distance")


def headline(metrics: Figures) -> Headline:
    """The figures at the head of the report."""
    return [
        ("reward, tuned", estimate(metrics, "reward_mean")),
        ("reward, base", estimate(metrics, "base_reward_mean")),
        ("held-out reward, tuned", estimate(metrics, "heldout_reward_mean")),
        ("held-out reward, base", estimate(metrics, "base_heldout_reward_mean")),
        ("judge's accuracy, tuned", estimate(metrics, "judge_accuracy")),
    ]


def objective_of(loop: Any) -> TuningObjective:
    """The tuning objective of a loop. Raises ValueError for another kind of loop or objective."""
    if isinstance(loop, RewardTuning) and isinstance(loop.objective, TuningObjective):
        claim = loop.objective.claim
        if claim not in html.TUNED:
            raise ValueError(
                f"loop.objective: a claim is one of {', '.join(html.TUNED)};"
                f" {type(loop.objective).__name__} has {claim!r}"
            )
        return loop.objective
    found = type(getattr(loop, "objective", loop)).__name__
    raise ValueError(
        "loop is steer.loops.RewardTuning with an objective of steer.tuning; got a " + found
    )
