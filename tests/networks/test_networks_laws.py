"""Properties of every network: derivatives, batch independence, precision, absent conditions."""

import copy
import math
import re

import pytest
import torch
from selection import slow_but
from shaking import shaken
from torch import nn

from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.networks import (
    CaptionCondition,
    ClassCondition,
    ContextCondition,
    EmbeddingCondition,
    InferredClass,
    LayerNorm,
    Mlp,
    NoisyClassifier,
    Transformer,
    UNet,
)
from steer.networks.transformer import SelfAttention
from steer.networks.unet import Attention
from steer.training import Eulerian, FlowMatching, Joint, Lagrangian
from steer.training.gradient_check import compare, compare_layer, noise_like

B = 4
WORDS = ["a", "red", "blue", "star", "above", "fish"]
CAPTIONS = ["a red star above a blue fish", "a blue fish above a red star", "a star", "a fish"]
LABELS = torch.tensor([0, 2, 1, 2])
TEXTS = torch.randn(B, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
CASES = {
    "mlp": (lambda: Mlp(2, 16, 3, data_std=2.0), (2,), None),
    "mlp-classes": (lambda: Mlp(3, 16, 2, ClassCondition(3, 16)), (3,), LABELS),
    "mlp-waves": (
        lambda: Mlp(2, 16, 3, ClassCondition(3, 16), frequencies=3, period=5.0),
        (2,),
        LABELS,
    ),
    "mlp-embedding": (lambda: Mlp(2, 16, 2, EmbeddingCondition(5, 16)), (2,), TEXTS),
    "unet": (lambda: UNet(1, (8, 16), blocks=1), (1, 8, 8), None),
    "unet-classes": (
        lambda: UNet(3, (8, 8, 16), blocks=2, patch=1, condition=ClassCondition(3, 32)),
        (3, 4, 8),
        LABELS,
    ),
    "unet-embedding": (
        lambda: UNet(1, (8,), blocks=1, condition=EmbeddingCondition(5, 32)),
        (1, 4, 4),
        TEXTS,
    ),
    "unet-captions": (
        lambda: UNet(3, (8, 8), blocks=1, condition=CaptionCondition(WORDS, 32, width=16)),
        (3, 4, 8),
        CAPTIONS,
    ),
    "unet-recomputed": (
        lambda: UNet(3, (8, 8), blocks=1, condition=ClassCondition(3, 32), recompute=True),
        (3, 4, 8),
        LABELS,
    ),
    "transformer": (lambda: Transformer(1, 16, depth=2, heads=2, patch=2), (1, 4, 6), None),
    "transformer-classes": (
        lambda: Transformer(3, 16, 2, 4, 4, ClassCondition(3, 16)),
        (3, 8, 8),
        LABELS,
    ),
    "transformer-recomputed": (
        lambda: Transformer(1, 16, 2, 2, 2, EmbeddingCondition(5, 16), recompute=True),
        (1, 4, 6),
        TEXTS,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    build, shape, cond = CASES[request.param]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(B, *shape, generator=generator, dtype=torch.float64)
    s, t = torch.rand(2, B, generator=generator, dtype=torch.float64).sort(dim=0).values
    return shaken(build()), x, s, t, cond


def test_output_is_like_x(case):
    network, x, s, t, cond = case
    u = network(x, s, t, cond)
    assert u.shape == x.shape
    assert u.dtype == x.dtype
    assert network.float()(x.float(), s.float(), t.float(), cond).dtype == torch.float32


def test_forward_mode_is_the_finite_difference_in_x_s_and_t(case):
    network, x, s, t, cond = case
    generator = torch.Generator().manual_seed(2)
    dx, ds, dt = (torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in (x, s, t))
    _, tangent = torch.func.jvp(lambda x, s, t: network(x, s, t, cond), (x, s, t), (dx, ds, dt))
    h = 1e-6
    with torch.no_grad():
        ahead = network(x + h * dx, s + h * ds, t + h * dt, cond)
        behind = network(x - h * dx, s - h * ds, t - h * dt, cond)
    assert ((ahead - behind) / (2 * h) - tangent).norm() < 1e-6 * tangent.norm()


def test_reverse_mode_agrees_with_forward_mode(case):
    network, x, s, t, cond = case
    _, slope = torch.func.jvp(
        lambda t: network(x, s, t, cond).square().sum(), (t,), (torch.ones_like(t),)
    )
    clock = t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, s, clock, cond).square().sum(), clock)
    torch.testing.assert_close(gradient.sum(), slope.detach(), rtol=1e-9, atol=1e-9)


def squared_tangent(network, x, s, t, cond):
    """|d/dh u_{s, t + h}(x + h x)|^2, as in objectives through a derivative."""
    tangents = (x, torch.ones_like(t))
    _, tangent = torch.func.jvp(lambda x, t: network(x, s, t, cond), (x, t), tangents)
    return tangent.to(torch.promote_types(tangent.dtype, torch.float32)).square().mean()


UNETS = {"unet", "unet-embedding", "unet-recomputed", "unet-captions"}  # slow; unet-classes is not


@pytest.mark.parametrize("case", slow_but(CASES.keys() - UNETS, CASES, CASES), indirect=True)
def test_the_gradient_through_the_tangent_is_a_finite_difference(case):
    network, x, s, t, cond = case
    weights = list(network.parameters())
    found = compare(lambda: squared_tangent(network, x, s, t, cond), weights, agreed=1e-11)
    assert found.size > 0
    assert found.error < 1e-9


@pytest.mark.parametrize("case", slow_but(CASES.keys() - UNETS, CASES, CASES), indirect=True)
def test_in_autocast_it_errs_no_more_than_float32_by_the_ratio_of_their_precisions(case):
    """Along one random direction, relative to the gradient; times five, as errors are random."""
    network, x, s, t, cond = case
    learned = list(network.parameters())
    exact = compare(lambda: squared_tangent(network, x, s, t, cond), learned)
    direction = noise_like(learned, seed=2)
    network = network.float()
    x = x.float()
    s = s.float()
    t = t.float()

    def error(half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = squared_tangent(network, x, s, t, cond)
        found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        along = sum((g * d).sum() for g, d in zip(found, direction, strict=True))
        return abs(float(along) - exact.difference) / exact.size

    assert error(False) < 1e-3
    assert error(True) < 5 * 2**16 * error(False)


def test_every_parameter_receives_a_gradient(case):
    network, x, s, t, cond = case
    network(x, s, t, cond).square().sum().backward()
    idle = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not idle


def test_both_times_and_x_matter(case):
    network, x, s, t, cond = case
    inputs = [v.clone().requires_grad_() for v in (x, s, t)]
    gradients = torch.autograd.grad(network(*inputs, cond).square().sum(), inputs)
    assert all(g.abs().min() > 0 for g in gradients[1:])
    assert gradients[0].flatten(1).abs().sum(1).min() > 0


def test_batch_mates_do_not_matter(case):
    network, x, s, t, cond = case
    together = network(x, s, t, cond)
    one = [slice(i, i + 1) for i in range(B)]
    alone = [network(x[i], s[i], t[i], None if cond is None else cond[i]) for i in one]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-10)


def test_single_precision_agrees_with_double(case):
    network, x, s, t, cond = case
    double = network(x, s, t, cond)
    single = network.float()(x.float(), s.float(), t.float(), cond)
    torch.testing.assert_close(
        single.double(), double, rtol=1e-3, atol=1e-3 * double.abs().max().item()
    )


def test_the_absent_condition_has_two_spellings(case):
    network, x, s, t, cond = case
    if cond is None:
        with pytest.raises(ValueError, match=r"takes no condition; pass cond=None"):
            network(x, s, t, LABELS)
        return
    absent = [""] * B
    if isinstance(cond, torch.Tensor):
        absent = torch.zeros_like(cond) if cond.is_floating_point() else torch.full_like(cond, -1)
    torch.testing.assert_close(network(x, s, t, absent), network(x, s, t), rtol=0, atol=0)
    assert (network(x, s, t, cond) - network(x, s, t)).flatten(1).norm(
        dim=1
    ).min() > 1e-3  # no class is the absent one
    mixed = [*cond[:2], *absent[2:]]
    if isinstance(cond, torch.Tensor):
        mixed = torch.cat((cond[:2], absent[2:]))
    expected = torch.cat((network(x, s, t, cond)[:2], network(x, s, t)[2:]))
    torch.testing.assert_close(network(x, s, t, mixed), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_torchs_with_the_right_second_derivative(affine):
    ours = LayerNorm(8, elementwise_affine=affine)
    theirs = nn.LayerNorm(8, elementwise_affine=affine)
    shaken(ours)
    ours.load_state_dict(shaken(theirs).state_dict())
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-13, atol=1e-13)
    for tangent in (False, True):
        assert compare_layer(ours, (x,), {}, tangent).error < 1e-9
    half = x.bfloat16()
    assert ours.bfloat16()(half).dtype == torch.bfloat16
    torch.testing.assert_close(ours(half), theirs.bfloat16()(half), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="got width=0"):
        LayerNorm(0)


def test_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    attention = shaken(Attention(16, heads=2))
    x = torch.randn(B, 16, 3, 5, dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(x)).reshape(B, 3, 2, 8, 15).transpose(-1, -2).unbind(1)
    seen = (
        torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
    )
    torch.testing.assert_close(attention(x), x + attention.project(seen), rtol=1e-12, atol=1e-12)


# Activation checkpointing


@pytest.mark.parametrize("name", ["unet-recomputed", "transformer-recomputed"])
@pytest.mark.parametrize(
    "objective",
    [FlowMatching(), Joint(FlowMatching(), Lagrangian()), Joint(FlowMatching(), Eulerian())],
)
def test_recomputing_changes_the_memory_and_not_the_gradient(name, objective):
    build, shape, cond = CASES[name]
    network = shaken(build())
    x0, x1 = torch.randn(
        2, B, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    def gradient(recompute):
        network.recompute = recompute
        kept = []
        weights = {tuple(p.shape) for p in network.parameters()}

        def keep(tensor):
            kept.append(
                0 if tuple(tensor.shape) in weights else tensor.numel()
            )  # activations, not weights
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = objective(
                ResidualMap(network, Linear()), x0, x1, cond, torch.Generator().manual_seed(0), 0
            ).total
        return torch.autograd.grad(loss, list(network.parameters())), sum(kept)

    expected, all_of_it = gradient(False)
    found, less = gradient(True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert less < all_of_it / 2


def test_recomputing_keeps_half_precision_in_the_second_run():
    network = shaken(Transformer(1, 16, 2, 2, 2)).float()
    x = torch.randn(B, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    t = torch.linspace(0.1, 0.9, B)

    def gradient(recompute):
        network.recompute = recompute
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(x, t, t).float().square().mean()
        return torch.autograd.grad(loss, network.blocks[0].attention.qkv.weight)[0]

    torch.testing.assert_close(
        gradient(True), gradient(False), rtol=0, atol=0.01 * gradient(False).abs().max().item()
    )


def test_recomputing_takes_no_gradient_that_nobody_asked_for_and_refuses_the_second():
    network = shaken(Transformer(1, 16, 2, 2, 2, recompute=True)).requires_grad_(False)
    x = torch.randn(
        B,
        1,
        4,
        4,
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
        requires_grad=True,
    )
    t = torch.full((B,), 0.5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(network(x, t, t).square().sum(), x)
    network.recompute = False
    (expected,) = torch.autograd.grad(network(x, t, t).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
    network.recompute = True
    with pytest.raises(RuntimeError, match="recompute=False"):
        torch.autograd.grad(network(x, t, t).square().sum(), x, create_graph=True)


# Half precision


def test_autocast_errs_no_more_than_rounded_weights_and_inputs_explain(case):
    network, x, s, t, cond = case
    network = network.float()
    x = x.float()
    s = s.float()
    t = t.float()
    exact = network(x, s, t, cond)
    rounded = copy.deepcopy(network).bfloat16().float()(x.bfloat16().float(), s, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x, s, t, cond)
    assert rough.dtype == torch.bfloat16
    assert rough.isfinite().all()
    assert (rough.float() - exact).norm() < 5 * (rounded - exact).norm()


def test_autocast_does_not_round_the_times(case, monkeypatch):
    """The first layer receives times in float32, though 1 - 2^-12 is 1 in bfloat16."""
    network, x, _, _, cond = case
    late = torch.full((B,), 1 - 2.0**-12)
    network = network.float()
    x = x.float()
    seen = []
    layer = network.first if isinstance(network, Mlp) else network.times
    layer.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        network(x, late, late, cond)
    columns = [seen[0][:, x.shape[1] + 1]] if isinstance(network, Mlp) else seen
    assert all(column.dtype == torch.float32 and (column == late).all() for column in columns)


def test_a_map_in_autocast_still_tells_late_times_apart(case):
    """X_{s,t}(x) - x has the right size at a gap of 2^-12 near s = 1, which rounding would lose."""
    network, x, _, _, cond = case
    flow_map = ResidualMap(network.float(), Linear())
    x = x.float()
    s = 1 - 2.0**-12
    with torch.autocast("cpu", torch.bfloat16):
        u = flow_map.average_velocity(x, s, 1.0, cond)
        moved = flow_map(x, s, 1.0, cond)
    assert moved.dtype == torch.float32
    torch.testing.assert_close((moved - x) * 2.0**12, u.float(), rtol=0.02, atol=0.01)


def test_a_half_precision_network_keeps_its_frequencies():
    """What the first linear layer sees is the sines of float32 angles, rounded once."""
    times = UNet(1, (8,), blocks=1).times
    seen = []
    times.perceptron[0].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    s, t = torch.tensor([0.113, 0.871]), torch.tensor([0.937, 0.999])
    times(s, t)
    times.bfloat16()(s, t)
    assert torch.equal(seen[0].bfloat16(), seen[1])


# Wrong input


@pytest.mark.parametrize(
    ("cond", "match"),
    [
        (torch.tensor([0, 1, 2, 3]), r"class labels are 0..2, or -1 for none; got \[0, 1, 2, 3\]"),
        (torch.tensor([0, 1, -2, 2]), r"or -1 for none"),
        (
            torch.tensor([0.0, 1.0, 2.0, 2.0]),
            r"integers of shape \(4,\), one per sample; got torch.float32",
        ),
        (torch.tensor([1]), r"got torch.int64 of shape \(1,\)"),
        (torch.tensor([[0], [1], [2], [2]]), r"got torch.int64 of shape \(4, 1\)"),
    ],
)
def test_wrong_labels_are_refused_in_one_line(cond, match):
    with pytest.raises(ValueError, match=match) as error:
        ClassCondition(3, 8)(cond, torch.zeros(B, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cond", [torch.zeros(B, 4), torch.zeros(1, 5), torch.zeros(5), torch.tensor([0, 1, 2, 2])]
)
def test_wrong_embeddings_are_refused_in_one_line(cond):
    with pytest.raises(
        ValueError, match=r"embeddings have shape \(4, 5\), one row per sample; got"
    ):
        EmbeddingCondition(5, 8)(cond, torch.zeros(B, 8))


@pytest.mark.parametrize(
    ("network", "shape", "says"),
    [
        (
            UNet(1, (8, 8), blocks=1),
            (1, 3, 8, 8),
            "UNet takes images (B, 1, H, W); got (1, 3, 8, 8)",
        ),
        (
            Transformer(3, 8, 1, heads=1),
            (1, 64),
            "Transformer takes images (B, 3, H, W); got (1, 64)",
        ),
        (Mlp(2, 8, 1), (1, 3), "Mlp takes samples (B, 2); got (1, 3)"),
    ],
)
def test_samples_of_another_shape_are_refused(network, shape, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        network.float()(torch.zeros(shape), torch.ones(1), torch.ones(1))


def test_images_that_cannot_be_halved_are_refused():
    network = UNet(1, (8, 8), blocks=1)
    t = torch.ones(1)
    with pytest.raises(ValueError, match=r"sides divide by 4; got \(8, 10\)"):
        network(torch.zeros(1, 1, 8, 10), t, t)


def test_the_attention_of_a_transformer_is_that_of_normalised_queries_and_keys():
    attention = shaken(SelfAttention(16, heads=2))
    h = torch.randn(B, 5, 16, dtype=torch.float64)
    q, k, v = (
        part.unflatten(2, (2, 8)).transpose(1, 2) for part in attention.qkv(h).chunk(3, dim=2)
    )
    q, k = (part / part.norm(dim=3, keepdim=True) for part in (q, k))
    q = q * attention.sharpness.exp()
    seen = (
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        .transpose(1, 2)
        .flatten(2)
    )
    torch.testing.assert_close(attention(h), attention.project(seen), rtol=1e-12, atol=1e-12)


def test_the_waves_of_a_perceptron_have_their_periods():
    """sin and cos of 2 pi x / period, 2 pi x / (period / 2), ... of each coordinate."""
    network = Mlp(2, 8, 2, frequencies=3, period=5.0)
    x = torch.randn(B, 2, dtype=torch.float64)
    angles = torch.stack(
        [2 * math.pi * x[:, c] * 2**k / 5.0 for c in range(2) for k in range(3)], dim=1
    )
    torch.testing.assert_close(network.waves(x), torch.cat((angles.sin(), angles.cos()), dim=1))


def test_a_transformer_refuses_what_it_cannot_cut():
    network = Transformer(1, 16, 1, 2, patch=4)
    t = torch.ones(1)
    with pytest.raises(ValueError, match=r"sides divide by 4; got \(8, 10\)"):
        network(torch.zeros(1, 1, 8, 10), t, t)
    with pytest.raises(ValueError, match="width=18, heads=2"):
        Transformer(1, 18, heads=2)


def test_a_transformer_knows_places():
    """Tokens that change places do not merely change places in the output."""
    network = shaken(Transformer(1, 16, 1, 2, patch=2))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    t = torch.full((1,), 0.5, dtype=torch.float64)
    for dims in ((2,), (3,)):
        swapped = network(x.roll(2, dims), t, t).roll(2, dims)
        assert (swapped - network(x, t, t)).abs().max() > 1e-3


def test_odd_features_are_refused():
    with pytest.raises(ValueError, match="features is even; got 31"):
        type(UNet(1, (8,)).times)(8, features=31)


# Compilation


def plainly(network, x, s, t, cond):
    return network(x, s, t, cond)


def its_slope(network, x, s, t, cond):
    return torch.func.jvp(lambda t: network(x, s, t, cond), (t,), (torch.ones_like(t),))[1]


@pytest.mark.slow
@pytest.mark.parametrize("of", [plainly, its_slope])
@pytest.mark.parametrize(
    "name", ["mlp-classes", "unet-classes", "transformer-classes", "unet-recomputed"]
)
def test_compiled_is_the_same(name, of):
    build, shape, cond = CASES[name]
    network = shaken(build()).float()
    x = torch.ones(B, *shape)
    s, t = torch.linspace(0, 1, 2 * B).view(2, B)
    compiled = torch.compile(
        of, dynamic=False, backend="aot_eager"
    )  # traced forwards and backwards, not lowered
    torch.testing.assert_close(
        compiled(network, x, s, t, cond), of(network, x, s, t, cond), rtol=1e-4, atol=1e-4
    )
    found, expected = (
        torch.autograd.grad(
            f(network, x, s, t, cond).square().sum(), list(network.parameters()), allow_unused=True
        )
        for f in (compiled, of)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_networks_are_modules_with_a_fixed_start():
    for build, *_ in CASES.values():
        torch.manual_seed(3)
        first = build()
        torch.manual_seed(3)
        second = build()
        assert isinstance(first, nn.Module)
        assert all(
            torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UNet(1, (8, 16), condition=ClassCondition(3, 16)), r"dim=32 .* to 32"),
        (lambda: UNet(1, (20, 40)), r"a multiple of 8 for each level.*; got \(20, 40\)"),
        (lambda: UNet(1, ()), "a multiple of 8 for each level"),
        (lambda: Transformer(1, 16, condition=EmbeddingCondition(3, 8)), "dim=16 .* to 16"),
        (lambda: Mlp(2, 16, condition=ClassCondition(3, 8)), "dim=16 .* to 16"),
        (lambda: ContextCondition(16, ClassCondition(3, 8)), "dim=16 .* to 16"),
        (lambda: CaptionCondition(["a"], 8, width=10, heads=4), "width=10, heads=4"),
        (
            lambda: InferredClass(
                UNet(1, (8,), condition=ClassCondition(3, 32)), NoisyClassifier(1, (4, 4), 5, 8)
            ),
            "the network has 3 classes and the classifier 5",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_the_network_is_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
