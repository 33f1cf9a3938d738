"""Tuning the unconditional law of a map with a network of its own for it."""

import copy
from types import SimpleNamespace

import torch
from conftest import IMAGES, LINEAR
from omegaconf import OmegaConf

from recipes.experiments.join_maps import join
from recipes.training import trainable
from recipes.training.checkpoints import start_from
from steer import checkpoint
from steer.build import build
from steer.tuning.lora import adapters

UNCONDITIONAL = {
    "_target_": "steer.networks.InferredClass",
    "network": IMAGES["network"],
    "classifier": {
        "_target_": "steer.networks.NoisyClassifier",
        "image_channels": 1,
        "image_size": [8, 8],
        "classes": 10,
        "width": 8,
    },
}
BOTH = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {
        "_target_": "steer.networks.ByCondition",
        "conditional": IMAGES["network"],
        "unconditional": UNCONDITIONAL,
    },
    "schedule": LINEAR,
}
LORA = {"_target_": "steer.tuning.add_lora", "rank": 2}


def tuned(tmp_path, lora):
    """The base, and a tuned copy that was saved and loaded."""
    torch.manual_seed(0)
    base = build(BOTH)
    checkpoint.save(base, tmp_path / "base.safetensors", BOTH, shape=[1, 8, 8])
    config = OmegaConf.create(
        {
            "model": str(tmp_path / "base.safetensors"),
            "condition": {"model": False},
            "lora": lora,
            "merge": True,
        }
    )
    learner = trainable.learner_of(base, config)
    learned = [p for p in learner.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in learned:
            p.add_(0.05 * torch.randn_like(p))
    x = torch.randn(3, 1, 8, 8)
    expected = learner(x, 0.0, 1.0)
    torch.testing.assert_close(learner(x, 0.0, 1.0, torch.tensor([1, 2, 3])), expected)
    model = SimpleNamespace(header=checkpoint.read_header(config.model), shape=(1, 8, 8))
    names = adapters(learner)
    trainable.save(learner, learner, tmp_path, config, model)
    return base, names, x, expected


def check(base, loaded, x, expected):
    labels = torch.tensor([1, 2, 3])
    torch.testing.assert_close(loaded(x, 0.0, 1.0), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(loaded(x, 0.0, 1.0, labels), base(x, 0.0, 1.0, labels))
    assert not torch.allclose(base(x, 0.0, 1.0), expected, atol=1e-3)


def test_all_weights_of_the_unconditional_part(tmp_path):
    base, names, x, expected = tuned(tmp_path, None)
    assert not names
    check(base, checkpoint.load(tmp_path / "map.safetensors"), x, expected)


def test_adapters_of_the_unconditional_part(tmp_path):
    base, names, x, expected = tuned(tmp_path, LORA)
    assert names
    check(base, checkpoint.load(tmp_path / "adapters.safetensors"), x, expected)
    check(base, checkpoint.load(tmp_path / "map.safetensors"), x, expected)


def test_trainings_start_from_the_part_that_fits(tmp_path):
    torch.manual_seed(1)
    both = build(BOTH)
    path = str(tmp_path / "both.safetensors")
    checkpoint.save(both, path, BOTH, shape=[1, 8, 8])
    labels = torch.tensor([1, 2, 3])
    x = torch.randn(3, 1, 8, 8)
    plain = build(IMAGES)
    start_from(plain, path)
    assert torch.equal(plain(x, 0.0, 1.0, labels), both(x, 0.0, 1.0, labels))
    inferred = build({**IMAGES, "network": UNCONDITIONAL})
    start_from(inferred, path)
    assert torch.equal(inferred(x, 0.0, 1.0), both(x, 0.0, 1.0))
    conditional = str(tmp_path / "plain.safetensors")
    checkpoint.save(plain, conditional, IMAGES, shape=[1, 8, 8])
    fresh = build({**IMAGES, "network": UNCONDITIONAL})
    classifier = copy.deepcopy(fresh.network.classifier.state_dict())
    start_from(fresh, conditional)
    assert torch.equal(
        fresh.network.network(x, *x.new_zeros(2, 3), labels),
        plain.network(x, *x.new_zeros(2, 3), labels),
    )
    for name, weight in fresh.network.classifier.state_dict().items():
        assert torch.equal(weight, classifier[name])


def test_two_maps_are_joined(tmp_path):
    torch.manual_seed(2)
    parts = {"one": IMAGES, "other": {**IMAGES, "network": UNCONDITIONAL}}
    maps = {name: build(recipe) for name, recipe in parts.items()}
    for name, recipe in parts.items():
        checkpoint.save(maps[name], tmp_path / f"{name}.safetensors", recipe, shape=[1, 8, 8])
    files = [str(tmp_path / f"{name}.safetensors") for name in ("one", "other", "both")]
    join(*files)
    both = checkpoint.load(files[2])
    x = torch.randn(3, 1, 8, 8)
    labels = torch.tensor([1, 2, 3])
    both.eval()
    assert torch.equal(both(x, 0.0, 1.0, labels), maps["one"](x, 0.0, 1.0, labels))
    assert torch.equal(both(x, 0.0, 1.0), maps["other"](x, 0.0, 1.0))
