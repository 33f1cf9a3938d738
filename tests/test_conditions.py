"""Conditions by name: what is done to them by sample, what is refused, who reads which field."""

import copy
import pickle
import re

import pytest
import torch
from prompts import meaning, prompts

from rewards import ClassLogProbability, Switch
from rewards.base import as_reward
from steer import Condition, Tilt
from steer.conditions import cat, check, for_particles, pick, prompts_of, repeat, to
from steer.flow_map import ResidualMap
from steer.guidance import ClassifierFree, Unconditional
from steer.interpolant import Linear
from steer.lookahead import Glass
from steer.networks import ClassCondition, EmbeddingCondition


def captioned(n=4):
    return Condition(**prompts(n).fields, texts=["a hat", "", "a bag", "a heart"][:n])


def same(one, other):
    return list(one.fields) == list(other.fields) and all(
        torch.equal(value, other.fields[name])
        if isinstance(value, torch.Tensor)
        else value == other.fields[name]
        for name, value in one.fields.items()
    )


INDICES = {
    "slice": slice(1, 3),
    "tensor": torch.tensor([3, 0, 0]),
    "list": [2, 1],
    "booleans": torch.tensor([True, False, False, True]),
}


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_every_field_is_indexed_by_sample(indices):
    cond = captioned()
    numbers = torch.arange(4)[indices].tolist()
    found = pick(cond, indices)
    assert len(found) == len(numbers)
    for name, value in cond.fields.items():
        expected = [value[k] for k in numbers]
        assert all(
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            for a, b in zip(found.fields[name], expected, strict=True)
        )
    assert pick(cond.texts, indices) == [cond.texts[k] for k in numbers]


def test_it_is_repeated_joined_and_taken_apart():
    cond = captioned()
    assert for_particles(cond, 2).texts == [t for t in cond.texts for _ in range(2)]
    assert repeat(cond, 2).texts == cond.texts * 2
    assert torch.equal(meaning(for_particles(cond, 3)), meaning(cond).repeat_interleave(3, dim=0))
    assert same(Condition.cat([*cond]), cond)
    assert same(Condition.cat([cond[:1], cond[1:]]), cond)
    assert cond[-1].texts == ["a heart"]
    with pytest.raises(IndexError):
        cond[4]


def test_shorter_prompts_are_padded_under_their_mask():
    short, long = prompts(2, 3), prompts(3, 5, seed=1)
    joined = Condition.cat([short, long])
    assert joined.tokens.shape == (5, 5, 2)
    assert not joined.mask[:2, 3:].any()
    assert torch.equal(meaning(joined), torch.cat((meaning(short), meaning(long))))


def test_it_cannot_be_changed():
    cond = captioned()
    with pytest.raises(AttributeError, match="cannot be changed; make Condition"):
        cond.pooled = torch.zeros(4, 2)
    with pytest.raises(AttributeError, match="texts has no field 'label'"):
        cond.label  # noqa: B018
    texts = cond.texts
    other = Condition(texts=texts)
    texts.append("a key")
    assert len(other) == 4


def test_it_moves_and_keeps_what_is_no_floating_point():
    cond = captioned()
    moved = to(cond, "meta")
    assert {v.device.type for v in moved.fields.values() if isinstance(v, torch.Tensor)} == {"meta"}
    half = cond.to(dtype=torch.float16)
    assert (half.tokens.dtype, half.mask.dtype) == (torch.float16, torch.bool)
    assert half.texts == cond.texts


def test_it_is_saved_and_loaded(tmp_path):
    cond = captioned()
    cond[1:].save(tmp_path / "cond.safetensors")  # views of what they are cut from
    assert same(Condition.load(tmp_path / "cond.safetensors"), cond[1:])
    torch.save({"kept": [cond]}, tmp_path / "last.ckpt")
    assert same(torch.load(tmp_path / "last.ckpt", weights_only=True)["kept"][0], cond)
    assert same(copy.deepcopy(cond), cond)
    assert same(pickle.loads(pickle.dumps(cond)), cond)


REFUSED = {
    "nothing": ({}, "at least one field"),
    "lengths": (
        {"a": torch.ones(2, 3), "texts": ["x"]},
        "one entry per sample each; got a 2, texts 1",
    ),
    "kind": ({"a": [1, 2]}, "a tensor (B, ...) or a list of B texts; a is list"),
    "scalar": ({"a": torch.tensor(1.0)}, "a is shape ()"),
    "name": ({"to": torch.ones(2)}, "cannot be called 'to'"),
    "mask": ({"mask": torch.ones(2)}, "mask is (B, L), 1 where a token is; got (2,)"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_fields_of_no_kind_are_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Condition(**fields)


def test_conditions_that_cannot_be_joined():
    tokens = torch.ones(1, 3, 2)
    for parts, message in [
        ([Condition(a=tokens), Condition(b=tokens)], "of the same fields .* those of a and of b"),
        ([Condition(a=tokens), Condition(a=tokens[:, :2])], "a has 2 to 3 tokens, and without a m"),
        ([Condition(a=tokens), tokens], "conditions of one kind .* a Condition and a Tensor"),
    ]:
        with pytest.raises(ValueError, match=message):
            cat(parts)


def test_labels_and_texts_are_not_mixed():
    check(["a hat", ""], 2)
    check([3, 4], 2)
    check(("a hat", "b"), 2)
    with pytest.raises(ValueError, match="got 'a hat' and 3 together: give one kind"):
        check(["a hat", 3], 2)


def test_equal_prompts_are_equal_in_every_field():
    cond = for_particles(prompts(3), 2)
    found, expected = prompts_of(cond, 6), torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.equal(found[:, None] == found, expected[:, None] == expected)
    changed = Condition(**dict(cond.fields) | {"number": torch.tensor([0.0, 9, 1, 1, 2, 2])})
    assert len(prompts_of(changed, 6).unique()) == 4


# Who reads what


def test_a_reward_receives_it_whole_or_the_field_that_it_asks_for():
    cond, x = captioned(), torch.zeros(4, 2, dtype=torch.float64)

    def of_texts(x, texts):
        return torch.tensor([float(len(text)) for text in texts]) + 0 * x[:, 0]

    def of_all(x, cond):
        return meaning(cond)[:, 0] + x[:, 0]

    for wrap in (lambda f: f, as_reward):
        assert Tilt(wrap(of_texts))(x, cond).tolist() == [5, 0, 5, 7]
        assert torch.equal(Tilt(wrap(of_all))(x, cond), meaning(cond)[:, 0])


def test_rewards_and_networks_of_labels_take_the_labels():
    labels = torch.tensor([1, 0, -1])
    cond, like = Condition(labels=labels, pooled=torch.randn(3, 2)), torch.zeros(3, 5)
    embedding = ClassCondition(2, 5)
    assert torch.equal(embedding(cond, like), embedding(labels, like))
    embedding = EmbeddingCondition(2, 5)
    assert torch.equal(embedding(cond, like), embedding(cond.pooled, like))
    reward = ClassLogProbability(torch.nn.Linear(2, 2))
    x = torch.randn(2, 2)
    assert torch.equal(reward(x, cond[:2]), reward(x, labels[:2]))
    switch = Switch({0: lambda x: x[:, 0], 1: lambda x: -x[:, 0]})
    assert torch.equal(switch(x, cond[:2]), switch(x, labels[:2]))
    with pytest.raises(ValueError, match="expected the field labels in a Condition of texts"):
        reward(x, Condition(texts=["a", "b"]))


def test_scales_are_found_by_condition():
    cond, x = captioned(3), torch.ones(4, 2, dtype=torch.float64)
    tilt = Tilt(lambda x: x[:, 0], torch.tensor([1.0, 2.0, 3.0]), prompts=cond)
    assert tilt(x, cond[[2, 0, 0, 1]]).tolist() == [3, 1, 1, 2]
    by_text = Tilt(lambda x: x[:, 0], torch.tensor([1.0, 2.0, 3.0]), prompts=cond.texts)
    assert by_text(x, cond[[2, 0, 0, 1]]).tolist() == [3, 1, 1, 2]
    with pytest.raises(ValueError, match="no scale for the prompt"):
        tilt(x[:1], Condition(**dict(cond[:1].fields) | {"pooled": torch.full((1, 2), 9.0)}))


class Named(torch.nn.Module):
    """u = the meaning of the condition, which there must be."""

    def forward(self, x, s, t, cond=None):
        assert len(cond) == len(x)
        return meaning(cond).to(x)


def test_guidance_takes_a_negative_prompt():
    """w = 0 is the model of the negative prompt, w = 1 that of the prompts."""
    flow_map, cond, negative = ResidualMap(Named(), Linear()), prompts(4), prompts(1, 7, seed=3)
    x, t = torch.zeros(4, 2, dtype=torch.float64), 0.3
    want, avoid = meaning(cond), meaning(negative).expand(4, 2)
    guided = ClassifierFree(flow_map, 3.0, negative)
    expected = avoid + 3 * (want - avoid)
    torch.testing.assert_close(guided.velocity(x, t, cond), expected)
    torch.testing.assert_close(guided(x, 0.0, 1.0, cond), expected)
    assert torch.equal(Unconditional(flow_map, negative).velocity(x, t, cond), avoid)
    with pytest.raises(ValueError, match="negative is one condition for all samples; got 4"):
        ClassifierFree(flow_map, 3.0, cond)


def test_a_negative_prompt_may_be_a_text():
    class Said(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return x.new_tensor([float(len(text)) for text in cond])[:, None] + 0 * x

    flow_map, x = ResidualMap(Said(), Linear()), torch.zeros(2, 3)
    found = ClassifierFree(flow_map, 2.0, "dull").velocity(x, 0.5, ["a hat", ""])
    assert found.tolist() == [[6.0] * 3, [-4.0] * 3]


def test_a_posterior_flow_repeats_it_for_its_draws():
    flow_map, cond = ResidualMap(Named(), Linear()), prompts(3)
    x = torch.ones(3, 2, dtype=torch.float64)
    guesses = [
        Glass(4, steps=1)(flow_map, x, 0.4, each, torch.Generator().manual_seed(0)).x1
        for each in (cond, meaning(cond))
    ]
    assert torch.equal(*guesses)
