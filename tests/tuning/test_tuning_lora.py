"""LoRA: a frozen network, a trainable update of low rank, and the two merged into plain weights."""

import copy

import pytest
import torch
from torch import nn
from toys import noise, seeded

from rewards import Quadratic
from steer import checkpoint, load
from steer.build import build
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.networks import ClassCondition, Mlp, Transformer, UNet
from steer.tilt import Tilt
from steer.tuning import Direct, add_lora, without_lora
from steer.tuning.lora import adapters, put_adapters

LABELS = torch.tensor([0, 1, -1, 1])


def small_map():
    torch.manual_seed(0)
    return ResidualMap(Mlp(2, 16, 2, ClassCondition(2, 16)).double(), Linear())


def train(flow_map, steps=5):
    base = small_map()
    weights = [p for p in flow_map.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-2)
    for step in range(steps):
        loss = Direct()(
            flow_map,
            base,
            Tilt(Quadratic([2.0, 0.0], 1.0)),
            noise(4, seed=step),
            LABELS,
            seeded(step),
            step,
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return flow_map


def law(flow_map):
    return flow_map(noise(4), 0.2, 0.9, LABELS).detach()


def test_adapters_change_nothing_until_they_learn():
    assert torch.equal(law(add_lora(small_map(), rank=2)), law(small_map()))


def test_only_the_adapters_learn():
    flow_map = add_lora(small_map(), rank=2)
    before = {name: value.clone() for name, value in flow_map.state_dict().items()}
    train(flow_map)
    changed = {
        name
        for name, value in flow_map.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.endswith((".0.a", ".0.b")) for name in changed)
    assert all(
        (name.endswith((".0.a", ".0.b"))) == value.requires_grad
        for name, value in flow_map.named_parameters()
    )


def test_the_update_has_its_rank():
    """Merged minus base is B A alpha / r, so its rank is at most r, layer by layer."""
    merged = without_lora(train(add_lora(small_map(), rank=2, alpha=6)))
    base = small_map()
    difference = merged.network.hidden[0].weight - base.network.hidden[0].weight
    assert torch.linalg.matrix_rank(difference, atol=1e-10) == 2


def test_the_merged_map_is_the_adapted_map_in_plain_weights():
    adapted = train(add_lora(small_map(), rank=2))
    merged = without_lora(copy.deepcopy(adapted))
    assert torch.allclose(law(merged), law(adapted), rtol=1e-10)
    assert not torch.allclose(law(merged), law(small_map()))
    assert merged.state_dict().keys() == small_map().state_dict().keys()


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_is_at_least_one(rank):
    with pytest.raises(ValueError, match=f"rank of at least 1; got rank={rank}"):
        add_lora(small_map(), rank=rank)


def test_merging_a_copy_leaves_the_original_adapted():
    adapted = train(add_lora(small_map(), rank=2))
    before = law(adapted)
    copied = copy.deepcopy(adapted)
    without_lora(adapted)
    assert torch.equal(law(copied), before)
    torch.testing.assert_close(law(without_lora(copied)), law(adapted), rtol=0, atol=0)


def test_a_map_is_adapted_once_and_merging_what_has_none_changes_nothing():
    flow_map = add_lora(small_map(), rank=2)
    with pytest.raises(ValueError, match="has adapters already; merge them first"):
        add_lora(flow_map)
    assert torch.equal(law(without_lora(small_map())), law(small_map()))


# --- every kind of layer ------------------------------------------------------------------------
class Attends(nn.Module):
    """Attention over 3 tokens, by one projection of all or by one of each."""

    def __init__(self, **widths):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **widths)
        self.widths = widths

    def forward(self, x):
        k, v = (
            x.repeat(1, 1, n // 4) for n in (self.widths.get("kdim", 4), self.widths.get("vdim", 4))
        )
        return self.attention(x, k, v, need_weights=False)[0]


class Twice(nn.Bilinear):
    def forward(self, x):
        return super().forward(x, x.cos())


LAYERS = {
    "linear": (nn.Linear(4, 3), (5, 4), {"weight"}),
    "bilinear": (Twice(4, 4, 3), (5, 4), {"weight"}),
    "convolution, 1-d": (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 5), {"weight"}),
    "convolution, 2-d, grouped": (nn.Conv2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5), {"weight"}),
    "convolution, 3-d": (nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3), {"weight"}),
    "convolution, transposed": (nn.ConvTranspose2d(4, 6, 3), (2, 4, 3, 3), {"weight"}),
    "embedding": (nn.Embedding(7, 3), None, {"weight"}),
    "attention": (Attends(), (2, 3, 4), {"attention.in_proj_weight", "attention.out_proj.weight"}),
    "attention, widths apart": (
        Attends(kdim=8, vdim=12),
        (2, 3, 4),
        {f"attention.{q}_proj_weight" for q in "qkv"} | {"attention.out_proj.weight"},
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_adapter_of_every_kind_adds_its_product_to_the_weight(kind, mode):
    """Against the plain layer with W + (alpha / r) B A by hand.

    Attention in eval mode has a path of its own.
    """
    torch.manual_seed(0)
    layer, shape, names = LAYERS[kind]
    layer = copy.deepcopy(layer).double().train(mode == "train")
    x = torch.tensor([3, 0, 3]) if shape is None else torch.randn(shape, dtype=torch.float64)
    original = copy.deepcopy(layer)
    flow_map = add_lora(ResidualMap(layer, Linear()), rank=2, alpha=3)
    found = adapters(flow_map)
    assert found.keys() == {f"network.{name}.{part}" for name in names for part in "ab"}
    with torch.no_grad():
        for tensor in found.values():
            tensor.normal_()
    by_hand = dict(original.named_parameters())
    for name in names:
        update = found[f"network.{name}.b"] @ found[f"network.{name}.a"] * 3 / 2
        by_hand[name] = by_hand[name] + update.view(by_hand[name].shape)
    expected = torch.func.functional_call(original, by_hand, (x,))
    got = layer(x)
    torch.testing.assert_close(got, expected)
    gradients = torch.autograd.grad(got.square().sum(), list(found.values()), retain_graph=True)
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(expected.square().sum(), list(found.values())), strict=True
    ):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(gradient, wanted)
    with torch.no_grad():
        torch.testing.assert_close(without_lora(flow_map).network(x), expected)
    assert layer.state_dict().keys() == original.state_dict().keys()
    assert [type(part) for part in layer.modules()] == [type(part) for part in original.modules()]


NETWORKS = {
    "unet": lambda recompute: UNet(
        1, (8, 8), 1, condition=ClassCondition(2, 32), recompute=recompute
    ),
    "transformer": lambda recompute: Transformer(
        1, 16, 2, 2, condition=ClassCondition(2, 16), recompute=recompute
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_matrices_of_our_networks_are_adapted_and_their_tangents_right(name, recwarn):
    """qkv, condition table and times among them.

    d_t u with adapters is that of the merged map, recomputed or not.
    """
    torch.manual_seed(0)
    network = NETWORKS[name](recompute=False).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) / 8)
    matrices = {k for k, v in network.named_parameters() if v.ndim > 1 and "sharpness" not in k}
    flow_map = add_lora(ResidualMap(network, Linear()), rank=2)
    found = adapters(flow_map)
    assert {key[:-2].removeprefix("network.") for key in found} == matrices
    assert any("qkv" in key for key in matrices)
    assert not [w for w in recwarn if "LoRA" in str(w.message)]
    with torch.no_grad():
        for tensor in found.values():
            tensor.normal_().mul_(0.3)
    again = ResidualMap(NETWORKS[name](recompute=True).double(), Linear())
    again.load_state_dict(without_lora(copy.deepcopy(flow_map)).state_dict())
    put_adapters(again, {key: torch.zeros_like(value) for key, value in found.items()}, 2, 2)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    s = torch.tensor([0.2, 0.4]).double()
    labels = torch.tensor([0, -1])

    def tangent(flow_map):
        ask = lambda t: flow_map.average_velocity(x, s, t, labels)  # noqa: E731
        return torch.func.jvp(ask, (s + 0.3,), (torch.ones_like(s),))[1]

    merged = without_lora(copy.deepcopy(flow_map))
    torch.testing.assert_close(tangent(flow_map), tangent(merged), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tangent(again), tangent(merged), rtol=1e-9, atol=1e-11)


class Own(nn.Module):
    """A matrix parameter, a recurrent layer, a shared weight, and a vector with three axes."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.ones(3, 4))
        self.sharpness = nn.Parameter(torch.ones(4, 1, 1))
        self.walk = nn.GRU(4, 5)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 4)


def test_what_is_left_out_is_named_in_one_warning():
    with pytest.warns(UserWarning, match="LoRA leaves out") as caught:
        flow_map = add_lora(ResidualMap(Own(), Linear()), rank=2)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert "leaves out 4 matrices" in said
    assert all(
        name in said for name in ("mix", "walk.weight_ih_l0", "walk.weight_hh_l0", "first.weight")
    )
    assert "sharpness" not in said
    assert adapters(flow_map).keys() == {"network.last.weight.a", "network.last.weight.b"}


def test_a_network_without_a_layer_to_adapt_is_refused():
    with pytest.raises(
        ValueError, match="finds no linear, convolution, embedding or attention layer"
    ):
        add_lora(ResidualMap(nn.GroupNorm(2, 4), Linear()))


def test_the_share_of_the_shipped_map_is_what_the_docstring_says():
    flow_map = load("fashion")
    whole = sum(weight.numel() for weight in flow_map.parameters())
    few = sum(tensor.numel() for tensor in adapters(add_lora(flow_map, rank=8)).values())
    assert few / whole == pytest.approx(0.1205, abs=5e-4)


# --- kept apart from their map ------------------------------------------------------------------
RECIPE = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {
        "_target_": "steer.networks.Mlp",
        "width": 256,
        "condition": {"_target_": "steer.networks.ClassCondition", "classes": 2, "dim": 256},
    },
    "schedule": {"_target_": "steer.interpolant.Linear"},
}


@pytest.fixture
def kept(tmp_path):
    """A base, its adapted copy and the folder of the adapters alone."""
    torch.manual_seed(0)
    base = build(RECIPE)
    checkpoint.save(base, tmp_path / "base" / "map.safetensors", RECIPE, shape=[2])
    tuned = add_lora(copy.deepcopy(base), rank=4, alpha=6)
    with torch.no_grad():
        for tensor in adapters(tuned).values():
            tensor.normal_().mul_(0.1)
    checkpoint.save_adapters(
        tuned, tmp_path / "tuned" / "adapters.safetensors", tmp_path / "base", shape=[2]
    )
    return base, tuned, tmp_path


def asked(flow_map):
    return flow_map(noise(4).float(), 0.2, 0.9, LABELS).detach()


def test_adapters_are_kept_apart_and_found_again(kept):
    base, tuned, folder = kept
    loaded = load(folder / "tuned")
    assert torch.equal(asked(loaded), asked(tuned))
    assert not torch.allclose(asked(loaded), asked(base))
    assert not any(weight.requires_grad for weight in loaded.parameters())
    sizes = [
        path.stat().st_size
        for path in (folder / "tuned" / "adapters.safetensors", folder / "base/map.safetensors")
    ]
    assert sizes[0] < sizes[1] / 15
    header = checkpoint.read_header(folder / "tuned" / "adapters.safetensors")
    assert header["lora"] == {"rank": 4, "alpha": 6}
    assert header["base"] == "../base/map.safetensors"
    torch.testing.assert_close(asked(without_lora(loaded)), asked(tuned))
    assert loaded.state_dict().keys() == base.state_dict().keys()


def test_adapters_on_adapters(kept):
    """The second are those of the first's merged map."""
    _, tuned, folder = kept
    more = add_lora(without_lora(load(folder / "tuned")), rank=2)
    with torch.no_grad():
        for tensor in adapters(more).values():
            tensor.normal_().mul_(0.1)
    checkpoint.save_adapters(more, folder / "more" / "adapters.safetensors", folder / "tuned")
    torch.testing.assert_close(asked(load(folder / "more")), asked(more))
    assert not torch.allclose(asked(more), asked(tuned))


def test_an_average_with_adapters_is_of_merged_weights(kept):
    base, tuned, folder = kept
    checkpoint.average(
        {str(folder / "tuned"): 1, str(folder / "base"): 1}, folder / "mean.safetensors"
    )
    weight = load(folder / "mean.safetensors").network.last.weight
    expected = (base.network.last.weight + without_lora(tuned).network.last.weight) / 2
    torch.testing.assert_close(weight, expected.detach())


def test_adapters_move_with_their_base_and_miss_no_change_of_it(kept):
    base, tuned, folder = kept
    (folder / "elsewhere").mkdir()
    for name in ("base", "tuned"):
        (folder / name).rename(folder / "elsewhere" / name)
    assert torch.equal(asked(load(folder / "elsewhere" / "tuned")), asked(tuned))
    with torch.no_grad():
        base.network.last.bias[0] += 1e-3
    checkpoint.save(base, folder / "elsewhere/base/map.safetensors", RECIPE, shape=[2])
    with pytest.raises(ValueError, match=r"holds adapters of another map than .* now is"):
        load(folder / "elsewhere" / "tuned")
    (folder / "elsewhere/base/map.safetensors").unlink()
    with pytest.raises(ValueError, match="which is missing"):
        load(folder / "elsewhere" / "tuned")
