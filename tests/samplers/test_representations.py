"""What a notebook shows: results in a line and a picture, objects as the calls that build them."""

import json
from io import BytesIO

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from zoo import concrete, plain

import steer
import steer.networks  # so that their short names are known
from steer.counting import Evaluations
from steer.lookahead import Posterior, ShortOde
from steer.samplers import Result, Sde, TrajectoryTilting, das, tds
from steer.solvers import Heun
from steer.training import Lagrangian  # noqa: F401  (a room that is loaded late)

MAPS = {
    "mlp": lambda: steer.ResidualMap(
        steer.networks.Mlp(2, 8, 1, steer.networks.ClassCondition(3, 8)), steer.Trigonometric()
    ),
    "mixture": lambda: steer.analytic.GaussianMixture([[0.0, 1.0], [2.0, 0.5]], 0.5),
    "guided": lambda: steer.guidance.ClassifierFree(MAPS["mlp"](), 3.0),
    "vp": lambda: steer.ResidualMap(steer.networks.UNet(1, [8]), steer.VariancePreserving(0.2)),
}


@pytest.mark.parametrize(
    "sampler", [*map(plain, concrete()), tds(3), das(3)], ids=lambda s: type(s).__name__
)
def test_a_sampler_is_written_as_the_call_that_builds_it(sampler):
    again = eval(repr(sampler))
    assert type(again) is type(sampler)
    assert repr(again) == repr(sampler)
    assert again.steps == sampler.steps if hasattr(sampler, "steps") else True


def test_what_was_given_is_written_and_comes_back():
    sampler = TrajectoryTilting(7, ShortOde(3, Heun()), eps=0.5, max_batch=9)
    assert repr(sampler) == (
        "steer.samplers.TrajectoryTilting(steps=7, lookahead=steer.lookahead.ShortOde(steps=3,"
        " solver=steer.solvers.Heun()), eps=0.5, max_batch=9)"
    )
    again = eval(repr(sampler))
    assert (again.steps, again.max_batch, again.lookahead.steps) == (7, 9, 3)
    assert repr(Posterior(5)) == "steer.lookahead.Posterior(draws=5, at_once=None)"
    sampler.steps = 8
    assert "steps=8" in repr(sampler)


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_written_as_the_call_that_builds_it(name):
    flow_map = MAPS[name]()
    again = eval(repr(flow_map))
    assert repr(again) == repr(flow_map)
    shapes = {key: value.shape for key, value in flow_map.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert again.schedule == flow_map.schedule


def test_what_is_not_known_is_an_ellipsis():
    class Odd(torch.nn.Module):
        def forward(self, x, s, t, cond=None):
            return x

    written = repr(steer.ResidualMap(Odd(), steer.Linear()))
    assert written == "steer.ResidualMap(network=Odd(...), schedule=steer.Linear())"
    many = steer.analytic.GaussianMixture(torch.randn(20, 2).double().tolist(), 1.0)
    assert "<tensor of shape (20, 2)>" in repr(many) or "[[" in repr(many)


def result(x, **more):
    log_w = torch.zeros(x.shape[:2], dtype=torch.float64)
    return Result(x, log_w, log_w[:, 0], claim="exact", **more)


def test_a_result_is_one_short_line():
    log_w = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]], dtype=torch.float64)
    shown = Result(torch.zeros(1, 4, 3, 8, 8), log_w, None, None, {}, Evaluations(32, 16), "biased")
    assert repr(shown) == (
        "Result(1 x 4 samples of shape (3, 8, 8); biased; ESS 2.0 of 4; evaluations a sample:"
        " 32 network forward, 16 network backward)"
    )


def test_images_are_shown_in_proportion_to_their_weights():
    x = torch.full((2, 3, 1, 4, 4), -1.0)
    x[:, 1] = 1.0
    log_w = torch.tensor([[-torch.inf, 0.0, -torch.inf]] * 2, dtype=torch.float64)
    shown = Result(x, log_w, None)
    picture = Image.open(BytesIO(shown._repr_png_())).convert("L")
    assert picture.getextrema() == (picture.getextrema()[0], 255)
    dark = sum(picture.histogram()[:60]) / (picture.width * picture.height)
    black = result(x)  # of equal weights: two in three are black
    seen = Image.open(BytesIO(black._repr_png_())).convert("L")
    assert dark < 0.02 < sum(seen.histogram()[:5]) / (seen.width * seen.height)


@pytest.mark.parametrize("shape", [(4, 8, 8), (5,), (3,)])
def test_other_samples_have_no_picture_without_a_decoder(shape):
    shown = result(torch.zeros(1, 2, *shape))
    assert shown._repr_png_() is None
    with pytest.raises(ValueError, match="are no images"):
        shown.grid()
    assert shown.grid(lambda x: torch.zeros(len(x), 3, 4, 4)).width > 4


def test_a_film_is_asked_for():
    ring = steer.analytic.ring()
    x0 = torch.randn(1, 8, 2, dtype=torch.float64)
    tilt = steer.Tilt(lambda x: x[:, 0])
    with pytest.raises(ValueError, match="ask for one, as in TrajectoryTilting"):
        Sde(2)(ring, x0, tilt).filmstrip()
    assert TrajectoryTilting(2, film=2)(ring, x0, tilt).filmstrip().height > 100


def test_what_is_saved_is_what_there_was(tmp_path):
    ring = steer.analytic.ring()
    x0 = torch.randn(2, 8, 2, dtype=torch.float64)
    drawn = TrajectoryTilting(3, film=1)(ring, x0, steer.Tilt(lambda x: x[:, 0]))
    folder = drawn.save(tmp_path / "new" / "run")
    names = {"filmstrip.png", "grid.png", "result.json", "samples.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    kept = load_file(folder / "samples.safetensors")
    assert torch.equal(kept["x"], drawn.x)
    assert torch.equal(kept["log_w"], drawn.log_w)
    assert torch.equal(kept["trace.ess"], drawn.trace["ess"])
    about = json.loads((folder / "result.json").read_text())
    assert about["claim"] == "exact"
    assert about["log_z"] == drawn.log_z.tolist()
    assert about["evaluations"]["network_forward"] == drawn.evaluations.network_forward


def test_dir_is_what_there_is():
    assert set(dir(steer)) == set(steer.__all__)
    assert all(hasattr(steer, name) for name in dir(steer))
    assert {"plots", "progress"} <= set(dir(steer))


def test_titles_are_one_for_each_prompt():
    """Of points each is the head of a panel; another number of them is refused."""
    x0 = torch.randn(2, 50, 2, dtype=torch.float64)
    result = steer.samplers.Ode(2)(steer.analytic.ring(), x0)
    together, apart = result.grid(), result.grid(titles=["left", "right"])
    assert apart.width > 1.8 * together.width
    assert apart.height == together.height
    for titles in (["one"], ["a", "b", "c"]):
        with pytest.raises(
            ValueError, match=f"titles has one for each of 2 prompts; got {len(titles)}"
        ):
            result.grid(titles=titles)
    images = Result(torch.rand(2, 3, 1, 8, 8), torch.zeros(2, 3), None)
    with pytest.raises(ValueError, match="titles has one for each of 2 prompts; got 1"):
        images.grid(titles=["one"])
    assert images.grid(titles=["shirt", "shoe"]).size != images.grid().size
