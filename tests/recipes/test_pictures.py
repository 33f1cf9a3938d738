import numpy as np
import pytest
import torch
from PIL import Image

from recipes.reporting.figures import Gallery
from steer import plots as pictures
from steer.plots.axes import BLUE, Canvas, written
from steer.plots.image_grid import NOTE
from steer.plots.mosaic import GAP, in_colour, mosaic, resize, tile_width
from steer.plots.point_clouds import window_of
from steer.plots.reward_spread import histograms
from steer.samplers import Result


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def contains(sheet: np.ndarray, tile: np.ndarray) -> bool:
    """Whether `tile` lies somewhere on the sheet, pixel for pixel."""
    corners = np.argwhere((sheet[: 1 - len(tile) or None] == tile[0, 0]).all(-1))
    h, w = tile.shape[:2]
    return any(np.array_equal(sheet[i : i + h, j : j + w], tile) for i, j in corners)


def enlarged(image: torch.Tensor, factor: int) -> np.ndarray:
    """(C, H, W) in [0, 1] as bytes, each pixel a square of `factor`."""
    grey = (image.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.kron(grey, np.ones((factor, factor, 1), dtype=np.uint8))


# --- mosaics ------------------------------------------------------------------------------------
def test_a_tile_is_a_whole_multiple_of_its_image_and_fits():
    for columns in (1, 3, 8, 20):
        width = tile_width((1, 28, 28), 4, columns, 1600)
        assert width % 28 == 0
        assert columns * (width + GAP) - GAP <= 1600


def test_large_images_shrink_to_the_room_there_is():
    assert tile_width((3, 512, 512), 2, 8, 1600) == (1600 - 7 * GAP) // 8


def test_shrinking_keeps_the_mean():
    x = images(2, 3, 64, 64).double()
    torch.testing.assert_close(resize(x, 16).mean((2, 3)), x.mean((2, 3)))


def test_a_mosaic_holds_every_image_in_its_place():
    x = images(2, 3, 1, 5, 4)
    sheet = mosaic(x, 8)
    assert sheet.shape == (2 * 10 + GAP, 3 * 8 + 2 * GAP, 3)
    for i in range(2):
        for j in range(3):
            top = i * (10 + GAP)
            left = j * (8 + GAP)
            np.testing.assert_array_equal(
                sheet[top : top + 10, left : left + 8], enlarged(x[i, j], 2)
            )


def test_bytes_cover_the_range_and_no_more():
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5]).view(1, 1, 1, 5)
    assert in_colour(x)[0, 0, 0].tolist() == [0, 0, 128, 255, 255]


# --- grid and film ------------------------------------------------------------------------------
def test_the_grid_holds_the_images_pixel_for_pixel(tmp_path):
    base = images(2, 3, 1, 28, 28)
    steered = 1 - images(2, 3, 1, 28, 28)
    pictures.grid(tmp_path / "grid.png", [("base", base), ("steered", steered)], ["a", "b"])
    sheet = pixels(tmp_path / "grid.png")
    assert all(
        contains(sheet, enlarged(image, 4)) for image in torch.cat((base, steered)).flatten(0, 1)
    )


def test_colour_images_keep_their_colour(tmp_path):
    x = images(1, 3, 32, 32)
    pictures.grid(tmp_path / "grid.png", [("one", x)])
    assert contains(pixels(tmp_path / "grid.png"), enlarged(x[0], 4))


def test_a_single_prompt_wraps_and_many_rows_are_cut(tmp_path):
    x = images(40, 1, 8, 8)
    pictures.grid(tmp_path / "flat.png", [("x", x)], columns=4, rows=3)
    pictures.grid(tmp_path / "prompt.png", [("x", x[None])], columns=4, rows=3)
    sheet = pixels(tmp_path / "flat.png")
    np.testing.assert_array_equal(sheet, pixels(tmp_path / "prompt.png"))
    assert contains(sheet, enlarged(x[11], 16))
    assert not contains(sheet, enlarged(x[12], 16))


def test_notes_stand_under_their_images(tmp_path):
    """Every image is whole, and there is ink right below each that has a note, and only there."""
    x = 0.2 + 0.6 * images(2, 2, 1, 28, 28)
    path = tmp_path / "grid.png"
    pictures.grid(path, [("x", x)], notes=[[["8", ""], ["", "88"]]])
    sheet = pixels(path)
    for i in range(2):
        for j in range(2):
            tile = enlarged(x[i, j], 4)
            assert contains(sheet, tile)
            top, left = next(
                (a, b)
                for a, b in np.argwhere((sheet == tile[0, 0]).all(-1))
                if np.array_equal(sheet[a : a + 112, b : b + 112], tile)
            )
            below = sheet[top + 112 : top + 112 + NOTE, left : left + 112]
            assert (below < 200).any() == (i == j)


# --- what a report shows of samples ---------------------------------------------------------------
def gallery(folder, titles=("a", "b")):
    return Gallery(folder, (1, 4, 4), None, titles)


def test_equal_samples_are_shown_once_with_their_number_and_the_best_first(tmp_path):
    x = images(2, 4, 1, 4, 4)
    x[0, 2] = x[0, 0]
    result = Result(x, torch.zeros(2, 4), None)
    rewards = torch.tensor([[0.5, 2.0, 0.5, -1.0], [-0.25, 10.0, 3.14159, 0.0]])
    shown, notes = gallery(tmp_path).rows_of(result, rewards, 4)
    assert notes == [["2", ".5×2", "−1", ""], ["10", "3.1", "0", "−.25"]]
    assert torch.equal(shown[0, :3], x[0, [1, 0, 3]])
    assert torch.equal(shown[0, 3], torch.ones(1, 4, 4))
    assert torch.equal(shown[1], x[1, [1, 2, 3, 0]])


def test_samples_are_shown_by_weight(tmp_path):
    x = images(2, 4, 1, 4, 4)
    log_w = torch.full((2, 4), -50.0)
    log_w[:, 3] = 0.0
    shown, notes = gallery(tmp_path).rows_of(Result(x, log_w, None), None, 4)
    assert notes == [["×4"], ["×4"]]
    assert torch.equal(shown[:, 0], x[:, 3])


def test_rewards_are_drawn_where_they_are_known_and_data_beside_the_samples(tmp_path):
    result = Result(images(2, 3, 1, 4, 4), torch.zeros(2, 3), None)
    known = {"reward_values": torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 3.0, 4.0]])}
    data = images(5, 1, 4, 4)
    found = gallery(tmp_path).samples({"x": result}, measured={"x": known}, data=data)
    assert [path.name for _, path in found] == ["grid.png", "rewards.png"]
    assert "x | data" in found[0][0]
    assert contains(pixels(tmp_path / "grid.png"), enlarged(data[4], 32))
    assert [path.name for _, path in gallery(tmp_path).samples({"x": result})] == ["grid.png"]


def test_the_spread_of_rewards_needs_a_finite_one(tmp_path):
    nothing = torch.full((3,), -torch.inf)
    with pytest.raises(ValueError, match="finite reward"):
        pictures.reward_spread(tmp_path / "x.png", {"a": (nothing, torch.ones(3))})


def test_a_result_that_breaks_every_constraint_has_no_histogram(tmp_path):
    path = tmp_path / "x.png"
    broken, even = torch.full((3,), -torch.inf), torch.ones(3)
    pictures.reward_spread(path, {"a": (broken, even), "b": (torch.arange(3.0), even)})
    assert path.is_file()
    axes = Canvas(400, 300).axes(50, 50, 300, 200)
    rewards = {"a": (broken[:0], even[:0]), "b": (torch.arange(3.0), even)}
    histograms(axes, rewards, torch.arange(3.0).double())
    assert [line.get_text() for line in axes.get_legend().get_texts()] == ["b"]


def test_a_histogram_counts_by_weight():
    """Bars of total mass one; half of it at the reward that has half of the weight."""
    axes = Canvas(400, 300).axes(50, 50, 300, 200)
    values = torch.tensor([0.0, 1.0, 2.0, 3.0])
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0])
    histograms(axes, {"a": (values, weights)}, values.double())
    heights = axes.patches[0].get_data().values
    assert heights.sum() == pytest.approx(1)
    assert heights.max() == pytest.approx(0.5)


def test_labels_are_words_not_formulas(tmp_path):
    x = images(2, 2, 1, 28, 28)
    pictures.grid(tmp_path / "grid.png", [("$\\broken{", x)], ["$x", "_^"])
    assert contains(pixels(tmp_path / "grid.png"), enlarged(x[0, 0], 4))


def test_long_labels_leave_room_for_images(tmp_path):
    x = images(2, 4, 1, 28, 28)
    pictures.grid(
        tmp_path / "grid.png", [("x", x)], ["a photograph of a very long prompt " * 20, "b" * 300]
    )
    assert contains(pixels(tmp_path / "grid.png"), enlarged(x[0, 0], 4))


def test_the_film_holds_every_frame(tmp_path):
    film = images(3, 2, 2, 1, 28, 28)
    pictures.filmstrip(tmp_path / "film.png", film, torch.tensor([0.1, 0.5, 1.0]), ["a", "b"])
    sheet = pixels(tmp_path / "film.png")
    assert all(contains(sheet, enlarged(frame, 4)) for frame in film.flatten(0, 2))


def test_a_long_film_shows_its_first_and_last_frame(tmp_path):
    film = images(40, 1, 1, 1, 8, 8)
    pictures.filmstrip(tmp_path / "film.png", film, torch.linspace(0, 1, 40))
    sheet = pixels(tmp_path / "film.png")
    shown = [contains(sheet, enlarged(frame, 16)) for frame in film.flatten(0, 2)]
    assert (shown[0], shown[-1], sum(shown)) == (True, True, 12)


# --- the plane ----------------------------------------------------------------------------------
def test_the_window_is_a_square_around_nearly_all_points():
    x = (
        torch.randn(5000, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 1.0])
        + 2
    )
    (a, b), (c, d) = window_of([x])
    assert b - a == pytest.approx(d - c)
    assert ((x > torch.tensor([a, c])) & (x < torch.tensor([b, d]))).all(1).double().mean() > 0.99


def test_points_of_no_weight_leave_no_mark(tmp_path):
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).repeat(20, 1)
    weights = torch.tensor([1.0, 1.0, 0.0]).repeat(20)
    pictures.plane(tmp_path / "weighted.png", [("x", x, weights)])
    pictures.plane(tmp_path / "alone.png", [("x", x)])
    ink = [(pixels(tmp_path / f"{name}.png") < 128).any(-1).sum() for name in ("weighted", "alone")]
    assert ink[0] < ink[1]


def test_planes_are_as_wide_as_their_panels(tmp_path):
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pictures.plane(tmp_path / "one.png", [("x", x)], truth=x)
    pictures.plane(tmp_path / "two.png", [("x", x.bfloat16()), pictures.Cloud("y", x + 1)], truth=x)
    one, two = (pixels(tmp_path / f"{name}.png").shape for name in ("one", "two"))
    assert one[0] == two[0]
    assert one[1] < two[1] < 2000


def test_one_stray_point_moves_nothing_but_is_counted(tmp_path):
    x = torch.randn(5000, 2, generator=torch.Generator().manual_seed(4))
    stray = torch.cat((x, torch.tensor([[1e6, 0.0]])))
    pictures.plane(tmp_path / "without.png", [("x", x)])
    pictures.plane(tmp_path / "with.png", [("x", stray)])
    without = pixels(tmp_path / "without.png")
    with_stray = pixels(tmp_path / "with.png")
    assert window_of([stray]).x[1] < 5
    assert not np.array_equal(without[60:100, 500:690], with_stray[60:100, 500:690])


def test_points_make_a_film_too(tmp_path):
    film = torch.randn(4, 2, 50, 2, generator=torch.Generator().manual_seed(3))
    pictures.filmstrip(tmp_path / "film.png", film, torch.linspace(0, 1, 4))
    assert pixels(tmp_path / "film.png").min() < 128


# --- curves -------------------------------------------------------------------------------------
def trace(steps: int, prompts: int) -> dict[str, torch.Tensor]:
    t = torch.linspace(1 / steps, 1, steps, dtype=torch.float64)
    ess = 8 * (1 - 0.5 * t)[:, None].expand(-1, prompts)
    return {"t": t, "ess": ess, "resampled": ess < 6, "reward": t[:, None] * torch.ones(prompts)}


@pytest.mark.parametrize("prompts", [1, 5])
def test_curves_are_drawn_of_what_the_trace_has(tmp_path, prompts):
    full = trace(20, prompts)
    pictures.curves(tmp_path / "full.png", full, particles=8, base_reward=-1.0)
    pictures.curves(tmp_path / "part.png", {"t": full["t"], "reward": full["reward"]}, particles=8)
    both, one = (pixels(tmp_path / f"{name}.png").shape for name in ("full", "part"))
    assert both[1] == one[1] < 2000
    assert one[0] < both[0] < 2000
    assert (tmp_path / "full.png").stat().st_size > 10_000


def test_curves_of_what_only_some_steps_looked_at(tmp_path):
    seen = {
        "t": torch.arange(1, 5) / 4,
        "seen_t": torch.tensor([0.5, 1.0]),
        "reward": torch.zeros(2, 3),
    }
    pictures.curves(
        tmp_path / "some.png",
        seen | {"ess": torch.ones(2, 3), "resampled": torch.eye(2, 3)},
        particles=8,
    )
    pictures.curves(tmp_path / "reward.png", seen, particles=8)
    assert (tmp_path / "some.png").stat().st_size > (tmp_path / "reward.png").stat().st_size > 0


def test_training_curves_of_long_short_flat_and_broken_logs(tmp_path):
    logs = {
        "train/loss": {s: 100.0 * 0.99**s for s in range(1000)},
        "train/once": {7: 0.5},
        "train/flat": {0: 0.0, 1: 0.0},
        "train/lost": {0: float("nan"), 1: float("nan")},
        "val/never": {},
        "spent/network_forward": {0: 1e6, 1: 2e6},
        "spent/reward_forward": {0: 1e6, 1: 2e6},
    }
    pictures.training_curves(tmp_path / "training.png", logs)
    assert max(pixels(tmp_path / "training.png").shape) < 2000
    assert (tmp_path / "training.png").stat().st_size > 10_000


@pytest.mark.parametrize("names", [["train/loss"], ["spent/a", "spent/b"]], ids=["one", "grouped"])
def test_a_single_logged_point_is_seen(names, tmp_path):
    pictures.training_curves(tmp_path / "one.png", {name: {7: 0.5} for name in names})
    blue = torch.tensor([int(BLUE[k : k + 2], 16) for k in (1, 3, 5)])
    seen = torch.tensor(pixels(tmp_path / "one.png")).reshape(-1, 3).int()
    assert ((seen - blue).abs().amax(1) < 40).sum() > 20


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        ([0.0, 0.5, 1.0], ["0", "0.5", "1.0"]),
        ([0.0, 2500.0, 10000.0], ["0", "2.5k", "10.0k"]),
        ([-2e6, 0.0, 2e6], ["−2M", "0", "2M"]),
        ([0.1, 0.125, 0.15], ["0.100", "0.125", "0.150"]),
    ],
)
def test_ticks_are_written_alike(ticks, words):
    assert written(ticks) == words


def test_paper_keeps_the_pixels_laid_on_it(tmp_path):
    patch = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    canvas = Canvas(101, 67)
    canvas.lay(patch, 31, 7)
    canvas.save(tmp_path / "canvas.png")
    sheet = pixels(tmp_path / "canvas.png")
    assert sheet.shape == (67, 101, 3)
    np.testing.assert_array_equal(sheet[7:20, 31:48], patch)
    sheet = sheet.copy()
    sheet[7:20, 31:48] = 255
    assert (sheet == 255).all()


# --- bad input ----------------------------------------------------------------------------------
NAN = torch.full((2, 2, 1, 8, 8), float("nan"))
T = torch.tensor([0.5, 1.0])


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda p: pictures.grid(p, []), "at least one"),
        (lambda p: pictures.grid(p, [("x", images(8, 8))]), r"got \(8, 8\)"),
        (lambda p: pictures.grid(p, [("x", images(2, 2, 4, 8, 8))]), "C = 1 or 3"),
        (lambda p: pictures.grid(p, [("x", NAN)]), "NaN"),
        (
            lambda p: pictures.grid(p, [("x", images(2, 2, 1, 8, 8))], ["a", "b", "c"]),
            "one row label per prompt, 2",
        ),
        (lambda p: pictures.filmstrip(p, images(2, 1, 1, 1, 8, 8), T[:1]), "times"),
        (lambda p: pictures.filmstrip(p, images(2, 1, 5, 3), T), r"points \(M, 2\)"),
        (
            lambda p: pictures.filmstrip(p, images(2, 1, 5, 2), T, ["a", "b"]),
            "one row label per prompt, 1",
        ),
        (lambda p: pictures.plane(p, []), "at least one"),
        (lambda p: pictures.plane(p, [("x", images(5, 3))]), r"points \(M, 2\)"),
        (lambda p: pictures.plane(p, [("x", images(5, 2), images(4))]), "one weight per point"),
        (lambda p: pictures.plane(p, [("x", images(5, 2) / 0)]), "NaN or infinite"),
        (lambda p: pictures.plane(p, [("x", images(5, 2), -images(5))]), "not negative"),
        (lambda p: pictures.plane(p, [("x", images(5, 2), 0 * images(5))]), "above 0"),
        (lambda p: pictures.plane(p, [("x", images(5, 2))], images(5, 3)), "truth needs"),
        (lambda p: pictures.curves(p, {"t": T}, 8), "'reward' or 'ess'"),
        (lambda p: pictures.curves(p, {"t": T, "reward": images(3, 1)}, 8), "T = 2"),
        (lambda p: pictures.training_curves(p, {"train/loss": {}}), "at least one logged"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, draw, words):
    with pytest.raises(ValueError, match=words) as error:
        draw(tmp_path / "picture.png")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize("panels", [1, 2, 5, 8])
def test_images_of_many_panels_are_drawn_at_twice_their_size(panels, tmp_path):
    """Grey images on white canvas: the lines of the picture that have grey in them are those of the
    images.
    """
    result = Result(torch.full((3, 8, 1, 28, 28), 0.25), torch.zeros(3, 8), None)
    Gallery(tmp_path, (1, 28, 28), None, ["a", "b", "c"]).samples(
        {str(k): result for k in range(panels)}
    )
    grey = (pixels(tmp_path / "grid.png")[..., 0] == round(0.25 * 255)).any(1)
    assert grey.sum() >= 3 * 2 * 28  # of three rows, at twice their size
