"""Every tuning objective, whose prompts are conditions of named fields."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer
from prompts import Told, meaning, prompts
from selection import slow_but
from test_tuning_laws import NAMES, QUICK
from test_tuning_objectives import OBJECTIVES

from steer.conditions import pick
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import Cosine, LastCheckpoint, RewardTuning, quiet
from steer.tilt import Tilt
from steer.tuning import RolloutObjective
from steer.tuning.diagonal import EVERYONE, members


def liking(x, cond):
    """A reward of the sample and of what it was asked for."""
    return (x * meaning(cond)).sum(1) / 4 - 0.1 * x.square().sum(1)


def tuned(make, cond, folder, steps):
    """Starts a tuning, or goes on with it, up to so many steps; returns the weights."""
    quiet()
    flow_map = ResidualMap(Told(), Linear())
    base = copy.deepcopy(flow_map).eval().requires_grad_(False)
    objective = make(reuse=2) if issubclass(make, RolloutObjective) else make()
    loop = RewardTuning(
        flow_map,
        base,
        Tilt(liking),
        objective,
        (2,),
        16,
        prompts=lambda n, generator: pick(cond, torch.randint(3, (n,), generator=generator)),
        lr=0.02,
        schedule=Cosine(9),
        seed=3,
    )
    last = LastCheckpoint(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(loop, ckpt_path=last.path if last.path.exists() else None, weights_only=True)
    return dict(loop.state_dict())


@pytest.mark.parametrize("make", slow_but(QUICK, OBJECTIVES, NAMES))
def test_named_fields_tune_as_the_embedding_they_mean(make, tmp_path):
    """Bit for bit, though the run with named fields stops after the first step, and so while it
    keeps samples, and is resumed.
    """
    cond = prompts(3, dtype=torch.float32)
    plain = tuned(make, meaning(cond), tmp_path / "plain", 2)
    tuned(make, cond, tmp_path / "named", 1)
    named = tuned(make, cond, tmp_path / "named", 2)
    weights = [name for name, value in plain.items() if isinstance(value, torch.Tensor)]
    assert all(torch.equal(plain[name], named[name]) for name in weights)
    assert not torch.equal(plain["flow_map.network.second"], Told().second)


def test_texts_and_labels_name_their_prompt():
    """What is kept for each prompt goes by its text or label, alone or in a Condition."""
    cond = prompts(3)
    assert list(members(cond, 3, torch.device("cpu"))) == [EVERYONE]
    texts = type(cond)(**cond.fields, texts=["a hat", "a bag", "a hat"])
    found = members(texts, 3, torch.device("cpu"))
    assert {name: mine.tolist() for name, mine in found.items()} == {
        "a hat": [True, False, True],
        "a bag": [False, True, False],
    }
    labels = torch.tensor([4, 4, 7])
    alone, beside = (
        members(each, 3, torch.device("cpu")) for each in (labels, type(cond)(labels=labels))
    )
    assert list(alone) == list(beside) == ["4", "7"]


def test_a_mixture_of_kinds_is_refused_where_prompts_are_drawn(tmp_path):
    from steer.tuning import Direct

    flow_map = ResidualMap(Told(), Linear())
    loop = RewardTuning(
        flow_map,
        copy.deepcopy(flow_map),
        Tilt(liking),
        Direct(),
        (2,),
        4,
        prompts=lambda n, generator: ["a hat", 3, "a bag", 1],
        lr=0.1,
    )
    with pytest.raises(ValueError, match="texts or of labels; got 'a bag' and 1 together"):
        loop.draw(torch.Generator())
