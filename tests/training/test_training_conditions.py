"""Every training objective, whose data have conditions of named fields."""

import pytest
import torch
from every import SMALL, numbered
from exact_map import generator, gradients, pairs, residual
from lightning.pytorch import Trainer
from prompts import Told, meaning, prompts

from steer.conditions import Condition, drop
from steer.data import StreamData
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import MapTraining, quiet
from steer.training import FlowMatching, Joint, Lagrangian, check_gradient


@pytest.mark.parametrize("objective", SMALL, ids=numbered(SMALL))
def test_named_fields_train_as_the_embedding_they_mean(objective):
    """Loss and gradients, bit for bit, forward mode included, where conditions have no tangent."""
    flow_map, cond = ResidualMap(Told(torch.float64), Linear()), prompts(6)
    found = []
    for each in (meaning(cond), cond, cond[[1, 2, 3, 4, 5, 0]]):
        loss = residual(objective, flow_map, pairs(6), each).mean()
        found.append([loss, *gradients(loss, flow_map).values()])
    plain, named, other = found
    assert all(map(torch.equal, plain, named))
    assert not torch.equal(plain[0], other[0])


class Captioned(StreamData):
    """Batches of four samples, of which each has four tokens."""

    def __init__(self, plain):
        super().__init__(4)
        self.plain = plain

    def draw(self, generator):
        cond = prompts(4, seed=int(torch.randint(99, (), generator=generator)), dtype=torch.float32)
        x1 = torch.randn(4, 2, generator=generator)
        return x1, meaning(cond) if self.plain else cond


def trained(plain, null=None):
    """The weights after three steps, half of the conditions dropped."""
    quiet()
    loop = MapTraining(
        ResidualMap(Told(), Linear()),
        Joint(FlowMatching(), Lagrangian()),
        drop_cond=0.5,
        null=null,
        lr=0.02,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(loop, Captioned(plain))
    return torch.cat([weight.flatten() for weight in loop.flow_map.parameters()])


def test_training_with_drop_is_that_of_the_embeddings():
    """Bit for bit, with as many samples as tokens; and another with another absent condition."""
    plain, named, other = trained(True), trained(False), trained(False, prompts(1, 6))
    assert torch.equal(plain, named)
    assert not torch.allclose(plain, other)


def test_the_gradient_check_takes_them():
    _, x1, _, _ = pairs(8)
    flow_map = ResidualMap(Told(torch.float64), Linear())
    found = check_gradient(Joint(FlowMatching(), Lagrangian()), flow_map, x1, prompts(8))
    assert not found.wrong


def test_exactly_the_chosen_samples_are_dropped():
    """With as many samples as tokens, and as many as an embedding has entries."""
    cond = prompts(400, 400)
    cond = Condition(**cond.fields, texts=[f"number {k}" for k in range(400)])
    found = drop(cond, 0.25, generator())
    gone = torch.tensor([text == "" for text in found.texts])
    assert torch.equal(gone, torch.rand(400, generator=generator()) < 0.25)
    assert (found.tokens[gone] == 0).all()
    assert (found.pooled[gone] == 0).all()
    assert (found.mask[gone].sum(1) == 1).all()
    for name, value in found.fields.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value[~gone], cond.fields[name][~gone]), name

    plain = torch.randn(3, 3, 3, generator=generator())
    gone = torch.rand(3, generator=generator()) < 0.5
    expected = torch.where(gone[:, None, None], 0.0, plain)
    assert torch.equal(drop(plain, 0.5, generator()), expected)


def test_a_given_null_takes_their_place():
    """Of more tokens than the others, which are padded, in the precision of the others."""
    cond, null = prompts(50, 3), prompts(1, 5, seed=2, dtype=torch.float32)
    found = drop(cond, 0.5, generator(), null)
    gone = torch.rand(50, generator=generator()) < 0.5
    expected = torch.where(gone[:, None], meaning(null).double(), meaning(cond))
    assert torch.equal(meaning(found), expected)
    assert found.tokens.shape == (50, 5, 2)
    assert found.tokens.dtype == torch.float64
    with pytest.raises(ValueError, match="null is one condition for all samples; got 2"):
        drop(cond, 0.5, generator(), prompts(2))
    with pytest.raises(ValueError, match="conditions of the same fields"):
        drop(cond, 0.5, generator(), Condition(pooled=torch.zeros(1, 2)))
