"""Judges with features and without classes, and several held-out rewards by their names."""

import math

import pytest
import torch

from recipes.comparison.cells import CellMetrics
from recipes.evaluation.metrics import Measure
from recipes.evaluation.reference import ImageReference
from recipes.reporting.tables import METRICS, by_name
from rewards import Decoded, FunctionReward
from rewards.small_clip import SmallClip
from steer.metrics.frechet import frechet_distance
from steer.samplers import Result

EVEN = torch.zeros(2, 6, dtype=torch.float64)


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    clip = SmallClip(
        ["a", "red", "heart"],
        embed_dim=8,
        vision={"image_size": 16, "patch_size": 4, "width": 32, "layers": 1, "head_width": 16},
        text={"width": 32, "layers": 1, "heads": 2},
    )
    return clip.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(1)).byte()


def test_a_clip_measures_diversity_and_no_accuracy(judge):
    x = torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    measure = Measure(None, (), judge, None, torch.tensor([0, 1]))
    figures = measure(Result(x, EVEN, None))
    features = judge.encode_image(x.flatten(0, 1)).unflatten(0, (2, 6))
    cosines = features @ features.mT
    apart = 1 - cosines[:, ~torch.eye(6, dtype=torch.bool)]
    assert math.isnan(figures["judge_accuracy"])
    assert figures["diversity"] == pytest.approx(float(apart.mean()), rel=1e-4)


def test_decoded_samples_are_measured_as_8_bit_files_keep_them(judge):
    def brightness(x):
        return x.flatten(1).mean(1)

    def decode(x):
        return x + 1

    x = 4 * torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 2
    reward = Decoded(brightness, decode)
    figures = Measure(reward, (reward,), judge, decode, None)(Result(x, EVEN, None))
    kept = ((x + 1).clamp(0, 1) * 255).round() / 255
    of_kept = Measure(brightness, (brightness,), judge, None, None)(Result(kept, EVEN, None))
    for name in ("reward_mean", "heldout_reward_mean", "diversity"):
        assert figures[name] == pytest.approx(of_kept[name], rel=1e-6)
    assert abs(figures["reward_mean"] - float((x + 1).mean())) > 0.01


def test_decoded_points_are_measured_as_they_are():
    x = 3 * torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    reward = Decoded(lambda points: points.sum(1), lambda points: 2 * points)
    figures = Measure(reward, (), None, None, None)(Result(x, EVEN, None))
    assert figures["reward_mean"] == pytest.approx(float((2 * x).sum(2).mean()), rel=1e-5)


def test_a_reference_of_pictures_with_captions(judge, pictures):
    captions = ["a red heart"] * 60
    reference = ImageReference(judge, (pictures[:40], captions[:40]), (pictures[40:], captions))
    same = (pictures[:40] / 255).view(4, 10, 3, 16, 16)
    assert reference(same, None)["frechet_distance"] == pytest.approx(0.0, abs=1e-9)
    real, others = (judge.features(p / 255).double() for p in (pictures[:40], pictures[40:]))
    floor = reference.floor(20)
    expected = frechet_distance(real.mean(0), real.T.cov(), others.mean(0), others.T.cov())
    assert floor == {"frechet_distance": pytest.approx(float(expected), rel=1e-5)}


def test_captions_are_no_labels(judge, pictures):
    captions = ["a red heart"] * 60
    reference = ImageReference(judge, (pictures, captions), (pictures, captions), of_labels=True)
    with pytest.raises(ValueError, match="have captions, not labels: of_labels=false"):
        reference(torch.rand(1, 3, 3, 16, 16), torch.tensor([1]))


def test_several_heldout_rewards_in_a_cell():
    """Each has its mean by the weights and its unweighted one, per prompt."""
    rewards = [FunctionReward(lambda x, k=k: k * x[:, 0]) for k in (1.0, 2.0, 3.0)]
    x = torch.tensor([[[1.0], [3.0]], [[2.0], [6.0]]])
    log_w = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).double().log()
    cells = CellMetrics(Measure(rewards[0], tuple(rewards[1:]), None, None, None), None)
    figures = cells(Result(x, log_w, None))
    assert figures["reward_mean"] == pytest.approx([1.5, 4.0])
    assert figures["heldout_reward_mean"] == pytest.approx([3.0, 8.0])
    assert figures["heldout_reward_2_mean"] == pytest.approx([4.5, 12.0])
    assert figures["heldout_reward_2_mean_unweighted"] == pytest.approx([6.0, 12.0])


def test_heldout_rewards_are_named_where_their_names_differ():
    key, second = "heldout_reward_mean", "heldout_reward_2_mean"
    named = by_name(METRICS, {"heldout_rewards": ["SceneAccuracy", "ClipScore"]})
    assert (named[key], named[second]) == (
        "held-out reward SceneAccuracy",
        "held-out reward ClipScore",
    )
    assert by_name(METRICS, {"heldout_rewards": ["Linear", "Linear"]}) == METRICS
    assert by_name(METRICS, {}) == METRICS
