"""steer tune: a flow map and a reward -> a flow map that the reward likes better, held beside what
it was.
"""

from pathlib import Path
from typing import Any

import torch

from recipes.evaluation.metrics import Figures, Measure, whole
from recipes.reporting import html
from recipes.reporting.figures import Gallery
from recipes.reporting.publish import publish
from recipes.reporting.tables import comparison, spent_table
from recipes.setup import builders, run_directory
from recipes.setup.dry_run import rehearse
from recipes.setup.job import Job
from recipes.setup.progress_bar import bar
from recipes.train import curves
from recipes.training import trainable
from recipes.training.checkpoints import origin
from recipes.training.eval_callback import Watch
from recipes.training.trainer import check_trainer, fit
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap
from steer.loops import Ema, RewardTuning
from steer.samplers import Result
from steer.tuning import TuningObjective


def tune(job: Job) -> Path:
    """Runs the config, or resumes it, and returns the run folder."""
    config = job.config
    torch.manual_seed(config.seed)  # initial weights of adapters
    model, prompts, decode = (
        builders.model_of(config),
        builders.prompts_of(config),
        builders.decode_of(config),
    )
    reward, heldout = (
        builders.reward_of(node, decode, config) for node in (config.reward, config.heldout)
    )
    tilt, judge = builders.tilt_of(reward, config, by_condition=True), builders.judge_of(config)
    sampler, ema = builders.sampler_of(config.sampler), builders.made_as(Ema, config.ema)
    if tilt is None:
        raise ValueError("steer tune needs a reward; give for instance reward=rewards.Brightness")
    base, tuned = (
        builders.told(model.flow_map, config),
        trainable.learner_of(model.flow_map, config),
    )
    live = {"flow_map": tuned, "base": base, "tilt": tilt, "shape": model.shape}
    loop = builders.make(config.loop, **live, prompts=trainable.Labels(prompts.cond))
    objective = objective_of(loop)
    x0 = builders.noise(config, model.shape, len(prompts), model.dtype)
    measure = Measure(reward, heldout, judge, decode, prompts.cond)
    rehearse(base, x0, measure)
    check_trainer(config)
    folder = run_directory.resume(config) if config.run.resume else run_directory.create(config)

    def drawn_from(flow_map: FlowMap) -> Result:
        return sampler(
            flow_map, x0, None, prompts.cond, keyed_generator("tune", config.seed, device=x0.device)
        )

    with bar("before", job.quiet):
        before = drawn_from(base)
    watch = Watch(lambda flow_map: measure(drawn_from(flow_map)), config.watch_every, ema)
    fitted = fit(loop, None, folder, job, ema, [watch])
    with bar("after", job.quiet):
        after = drawn_from(tuned.to(x0.device).eval())
    sizes = trainable.parameters(tuned)
    trainable.save(tuned, folder, config, model, **origin(job, fitted.steps))

    metrics: Figures = {
        "method": type(objective).__name__,
        "claim": objective.claim,
        **measure(after),
        "log_z": None,
        "ess_min": None,
        "resamples": 0,
        "evaluations": whole(loop.spent),
        "distance_to_base": float((after.x - before.x).flatten(2).norm(dim=2).mean()),
        **sizes,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        **{f"base_{name}": value for name, value in measure(before).items()},
    }
    drawn = [
        *Gallery(folder, model.shape, decode, prompts.titles).samples(
            {"base": before, "tuned": after}
        )
    ]
    headline = [
        ("reward, tuned", metrics["reward_mean"]),
        ("reward, base", metrics["base_reward_mean"]),
        ("judge's accuracy, tuned", metrics["judge_accuracy"]),
    ]
    tables = [comparison(metrics, "base", "tuned"), spent_table(metrics)]
    title, claim_line = f"{metrics['method']}: {folder.name}", html.CLAIMS[metrics["claim"]]
    return publish(
        folder, job, metrics, title, claim_line, [*drawn, *curves(folder)], tables, headline
    )


def objective_of(loop: Any) -> TuningObjective:
    """What is descended, which says what it claims."""
    if isinstance(loop, RewardTuning) and isinstance(loop.objective, TuningObjective):
        return loop.objective
    raise ValueError(
        "loop is steer.loops.RewardTuning with an objective of steer.tuning; got something else"
    )
