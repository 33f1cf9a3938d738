"""Operators against their own matrices, and JPEG against the files that PIL writes."""

import inspect
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import rewards
from rewards import Decoded, Measurement, from_signed, operators
from rewards.jpeg_like import JpegLike
from rewards.operators import Blur, CompressedSensing, Downsample, LinearOperator, Mask

SHAPE = (2, 8, 12)
B = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


OPERATORS = {
    "box": Mask.box(SHAPE, 2, 3, 4, 5),
    "random mask": Mask.random(SHAPE, 0.4, generator()),
    "given mask": Mask(normal(*SHAPE) > 0.5),
    "shrink": Downsample(4),
    "gaussian blur": Blur.gaussian(1.2, 5),
    "lopsided blur": Blur(normal(3, 7)),
    "orthonormal": CompressedSensing.orthonormal(20, SHAPE, generator()),
    "gaussian projections": CompressedSensing.gaussian(250, SHAPE, generator()),
}
every = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def matrix(operator):
    """A, (m, d), column by column."""
    basis = torch.eye(math.prod(SHAPE), dtype=torch.float64).view(-1, *SHAPE)
    return operator(basis).flatten(1).T


def test_all_linear_operators_are_here():
    classes = {
        c for c in vars(operators).values() if inspect.isclass(c) and issubclass(c, LinearOperator)
    }
    assert {c for c in classes if not inspect.isabstract(c)} == {
        type(operator) for operator in OPERATORS.values()
    }


@every
def test_the_adjoint_is_the_transpose(operator):
    """<A x, y> = <x, A^T y>."""
    x = normal(B, *SHAPE)
    ax = operator(x)
    y = normal(*ax.shape, seed=1)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    torch.testing.assert_close(
        (ax * y).flatten(1).sum(1), (x * back).flatten(1).sum(1), rtol=1e-12, atol=1e-12
    )


@every
@pytest.mark.parametrize(
    "step", [0.0, 0.7, torch.tensor([0.1, 3.0, 1e4])], ids=["none", "one", "per sample"]
)
def test_the_proximal_step_solves_its_equation(operator, step):
    """(I + step A^T A) z = x + step A^T y."""
    x = normal(B, *SHAPE)
    steps = torch.as_tensor(step, dtype=torch.float64).expand(B)
    y = normal(*operator(x).shape, seed=1)
    a = matrix(operator)
    eye = torch.eye(math.prod(SHAPE), dtype=torch.float64)
    z = operator.prox(x, y, step)
    for i in range(B):
        expected = torch.linalg.solve(
            eye + steps[i] * a.T @ a, x[i].flatten() + steps[i] * a.T @ y[i].flatten()
        )
        torch.testing.assert_close(z[i].flatten(), expected, rtol=1e-7, atol=1e-9)


@every
def test_single_precision_stays_single(operator):
    x = normal(B, *SHAPE).float()
    y = operator.observe(x, 0.1, generator())
    assert y.dtype == operator.prox(x, y, 2.0).dtype == torch.float32


def test_what_each_does_by_hand():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert Mask.box((1, 4, 4), 1, 1, 3, 3)(x).tolist() == [[0, 1, 2, 3, 4, 8, 12]]
    assert Mask.random((3, 10, 10), 0.3, generator()).seen.view(3, -1).sum(1).tolist() == [70] * 3
    assert Downsample(2)(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    shift = torch.zeros(3, 3)
    shift[0, 1] = 1.0  # of the kernel above its middle: the image moves up, round the edge
    torch.testing.assert_close(Blur(shift)(x), x.roll(-1, 2))
    blurred = Blur.gaussian(0.8)(torch.ones(1, 1, 9, 9))
    torch.testing.assert_close(blurred, torch.ones(1, 1, 9, 9))


def test_random_rows_are_orthonormal_and_gaussian_ones_keep_lengths_on_average():
    rows = OPERATORS["orthonormal"].matrix
    torch.testing.assert_close(rows @ rows.T, torch.eye(20, dtype=torch.float64))
    x = normal(B, *SHAPE)
    lengths = torch.stack(
        [
            CompressedSensing.gaussian(30, SHAPE, generator(seed))(x).square().sum(1)
            for seed in range(200)
        ]
    )
    ratio = lengths / x.square().flatten(1).sum(1)
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / 200**0.5).all()


def test_noise_has_its_level_and_only_what_is_seen_has_noise():
    mask = OPERATORS["box"]
    x = normal(500, *SHAPE)
    e = mask.observe(x, 0.3, generator()) - mask(x)
    assert e.shape == (500, mask.seen.sum())
    assert abs(e.std() - 0.3) < 4 * 0.3 / (2 * e.numel()) ** 0.5


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: Mask(torch.zeros(2, 2, dtype=torch.bool)), "at least one pixel"),
        (lambda: Mask.random(SHAPE, 1.0), "0 <= hidden < 1, got 1"),
        (
            lambda: OPERATORS["box"](torch.zeros(1, 1, 8, 12)),
            r"shape \(2, 8, 12\), got \(1, 8, 12\)",
        ),
        (lambda: Downsample(0), "at least 1, got 0"),
        (lambda: Downsample(3)(torch.zeros(1, 1, 8, 9)), r"that 3 divides, got \(8, 9\)"),
        (lambda: Blur(torch.ones(2, 3)), r"odd sides, got \(2, 3\)"),
        (lambda: Blur.gaussian(0.0), "positive standard deviation, got 0"),
        (
            lambda: Blur.gaussian(2.0)(torch.zeros(1, 1, 8, 8)),
            r"at least \(13, 13\) pixels, got \(8, 8\)",
        ),
        (lambda: CompressedSensing.orthonormal(300, SHAPE), "1 to 192 measurements, got 300"),
        (lambda: CompressedSensing(torch.eye(4), (2, 3)), r"4 pixels, got \(2, 3\)"),
        (lambda: OPERATORS["orthonormal"](torch.zeros(1, 4)), r"samples \(2, 8, 12\), got \(4,\)"),
        (lambda: JpegLike(0), "1 to 100, got 0"),
        (lambda: JpegLike()(torch.zeros(1, 2, 8, 8)), "1 or 3 channels, got 2"),
    ],
)
def test_refusals(build, complaint):
    with pytest.raises(ValueError, match=complaint):
        build()


# --- the reward ---------------------------------------------------------------------------------
def test_a_measurement_by_hand():
    x = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    operator = CompressedSensing(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    one = Measurement(operator, torch.tensor([[2.0]]), noise=0.5)
    assert one(x).tolist() == [-2.0, -18.0]
    assert one(x, torch.tensor([7, 7])).tolist() == [-2.0, -18.0]  # labels for the map may stand
    several = Measurement(operator, torch.tensor([[2.0], [3.0]]), noise=0.5)
    assert several(x, torch.tensor([1, 0])).tolist() == [0.0, -18.0]
    likelihood = torch.distributions.Normal(torch.tensor([3.0, -1.0]), 0.5).log_prob(
        torch.tensor(2.0)
    )
    torch.testing.assert_close((one(x) + one.log_constant).float(), likelihood)


def test_its_gradient_is_the_adjoint_of_the_misfit():
    for operator in OPERATORS.values():
        x = normal(B, *SHAPE).requires_grad_()
        y = operator.observe(normal(1, *SHAPE, seed=2), 0.1, generator())
        (gradient,) = torch.autograd.grad(Measurement(operator, y, 0.3)(x).sum(), x)
        torch.testing.assert_close(gradient, operator.adjoint(y - operator(x)) / 0.09)


@every
def test_signed_is_decoded(operator):
    y = operator.observe(normal(B, *SHAPE), 0.1, generator())
    reward = Measurement(operator, y, 0.2)
    x = normal(B, *SHAPE, seed=3)
    which = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        reward.signed()(x, which), Decoded(reward, from_signed)(x, which), rtol=1e-10, atol=1e-10
    )
    assert reward.signed().log_constant != reward.log_constant  # y was scaled too


@every
def test_prox_climbs_to_where_its_gradient_vanishes(operator):
    y = operator.observe(normal(B, *SHAPE), 0.1, generator())
    reward = Measurement(operator, y, 0.2)
    x = normal(B, *SHAPE, seed=3)
    which = torch.tensor([2, 0, 1])
    variance = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    z = reward.prox(x, variance, which).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(z, which).sum(), z)
    torch.testing.assert_close(
        gradient, (z - x).detach() / variance.view(-1, 1, 1, 1), rtol=1e-6, atol=1e-8
    )


def test_measurements_refuse():
    y = OPERATORS["box"](normal(2, *SHAPE))
    x = normal(2, *SHAPE)
    reward = Measurement(OPERATORS["box"], y, 0.1)
    with pytest.raises(ValueError, match="positive noise level, got 0"):
        Measurement(OPERATORS["box"], y, 0.0)
    for cond in (None, ["a", "b"], torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="in cond, 0 to 1"):
            reward(x, cond)
    with pytest.raises(ValueError, match="got 2: there is no such y"):
        reward(x, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"y of shape \(n, 2, 2, 3\), got \(1, 2, 8, 12\)"):
        Measurement(Downsample(4), x[:1], 0.1)(x)
    with pytest.raises(ValueError, match="expected a linear operator, got JpegLike"):
        Measurement(JpegLike(), normal(1, 1, 8, 8), 0.1).signed()


# --- JPEG ---------------------------------------------------------------------------------------
def file(pixels, quality):
    """What PIL reads from the JPEG file it wrote, at full colour resolution."""
    kept = BytesIO()
    Image.fromarray(pixels).save(kept, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(kept))


def smooth(channels, h, w):
    """Images in [.2, .8], of whole grey levels, with some grain."""
    rows = torch.linspace(0, 3, h)[:, None]
    columns = torch.linspace(0, 5, w)
    waves = torch.stack(
        [torch.sin(rows * (k + 1)) * torch.cos(columns + k) for k in range(channels)]
    )
    grain = torch.rand(channels, h, w, generator=generator())
    return ((0.5 + 0.2 * waves + 0.1 * (grain - 0.5)) * 255).round() / 255


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("shape", [(1, 16, 24), (1, 28, 28), (3, 16, 24), (3, 13, 21)])
def test_forwards_it_is_jpeg(shape, quality):
    """Up to the whole grey levels of a file and of PIL's colours, which tip some coefficients: a
    level or two in 255.
    """
    x = smooth(*shape)
    pixels = (x * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
    read = (
        torch.from_numpy(file(pixels, quality).copy())
        .float()
        .reshape(*shape[1:], shape[0])
        .permute(2, 0, 1)
    )
    apart = (JpegLike(quality)(x[None].double())[0] * 255 - read).abs()
    assert apart.mean() < (0.8 if shape[0] == 1 else 2.0)
    assert quality > 90 or apart.mean() < (x * 255 - read).abs().mean() / 5


def test_backwards_the_rounding_is_the_identity():
    for shape in ((1, 1, 16, 8), (2, 3, 8, 8)):
        x, y = (
            torch.rand(*shape, dtype=torch.float64, generator=generator()).requires_grad_(),
            normal(*shape),
        )
        (gradient,) = torch.autograd.grad((JpegLike(10)(x) * y).sum(), x)
        torch.testing.assert_close(gradient, y, rtol=1e-6, atol=1e-6)


def test_it_is_idempotent_on_grey_images():
    x = torch.rand(2, 1, 16, 16, generator=generator(), dtype=torch.float64)
    once = JpegLike(20)(x)
    torch.testing.assert_close(JpegLike(20)(once), once)
    assert (once - x).abs().mean() > 0.01


def test_it_measures():
    x = torch.rand(2, 1, 16, 16, generator=generator())
    reward = rewards.Measurement(JpegLike(20), JpegLike(20)(x), 0.1)
    assert reward(x, torch.arange(2)).tolist() == [0.0, 0.0]
