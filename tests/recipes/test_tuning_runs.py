"""What the experiments of tuning share: the choice of a setting, stops, pictures; their rewards."""

import pytest
import torch

from recipes.evaluation import collapse
from recipes.experiments import fashion_hacking, remedies, tuning_runs
from recipes.experiments.fashion_black_box import pieces, three_elsewhere, three_pieces
from recipes.experiments.tuning_runs import HELDOUT, bracketed, packed, unpacked, until_stopped
from steer.metrics import frechet_distance


def course_of(heldout, reward=None, distance=None):
    """A course of these held-out rewards, a look every 1000 evaluations."""
    n = len(heldout)
    return [
        {
            "step": k,
            "spent": 1000.0 * k,
            HELDOUT: heldout[k],
            "heldout_reward_std_error": 0.01,
            "reward_mean": (reward or range(n))[k],
            "frechet_distance": (distance or [1.0] * n)[k],
        }
        for k in range(n)
    ]


# --- the counting reward ------------------------------------------------------------------------
def picture(row, *places):
    """A dark image with bright pixels in one row, from (start, stop)."""
    image = torch.zeros(1, 28, 28)
    for start, stop in places:
        image[0, row, start:stop] = 1.0
    return image


def test_pieces_are_counted():
    """Nothing, the whole row, two at the edges, three next to each other but for a pixel."""
    images = torch.stack(
        [
            picture(16),
            picture(16, (0, 28)),
            picture(16, (0, 3), (27, 28)),
            picture(16, (5, 8), (9, 20), (21, 24)),
        ]
    )
    assert pieces(images, 16, 0.25).tolist() == [0, 1, 2, 3]
    assert pieces(images, 15, 0.25).tolist() == [0, 0, 0, 0]
    assert three_pieces(images).tolist() == [-3, -2, -1, 0]


def test_a_piece_is_brighter_than_the_threshold():
    image = 0.3 * picture(16, (5, 8), (12, 14))[None] + 0.7 * picture(16, (12, 14))[None]
    assert pieces(image, 16, 0.25).tolist() == [2]
    assert pieces(image, 16, 0.4).tolist() == [1]


def test_the_heldout_count_sees_other_rows():
    """A picture that has three pieces in the rewarded row alone does not please it."""
    sleeves = (5, 8), (9, 20), (21, 24)
    only = picture(16, *sleeves)
    through = sum(picture(row, *sleeves) for row in range(12, 20))
    assert three_pieces(torch.stack([only, through])).tolist() == [0, 0]
    assert three_elsewhere(torch.stack([only, through])).tolist() == [-3, 0]


# --- choices ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("top", "chosen", "inside"),
    [(1.0, 1.0, True), (9.0, 9.0, True), (0.11, 0.111, True), (1000.0, 81.0, False)],
)
def test_a_grid_is_extended_until_it_brackets_the_best(top, chosen, inside):
    """The score peaks at `top` on a logarithmic axis; three extensions at most."""
    asked = []

    def score(setting):
        asked.append(setting)
        return -abs(torch.log(torch.tensor(setting / top)).item())

    assert bracketed((1 / 3, 1.0, 3.0), score, (1e-3, 1e3)) == (chosen, inside)
    assert len(asked) == len(set(asked)) <= 6


def test_a_grid_stays_within_its_limits():
    assert bracketed((2.0, 8.0), lambda setting: -setting, (1.0, 8.0)) == (2.0, False)


def test_scores_of_a_course():
    """Best so far -3, -1, -1 after the start; in the second half of 8000 the looks at 4000 on."""
    assert tuning_runs.best_so_far(course_of([-4, -3, -1, -2])) == pytest.approx(-5 / 3)
    late = tuning_runs.held_late(course_of([-9, -9, -9, -9, -1, -2, -2, -3, -4]))
    assert late == pytest.approx(-12 / 5)


def test_a_stop_ends_a_course_at_its_patience():
    """The best is at look 2; two looks without an improvement end it at look 4."""
    found = until_stopped(course_of([-4, -2, -1, -3, -2, -0.5]))
    assert [f["step"] for f in found] == [0, 1, 2, 3, 4]
    assert until_stopped(course_of([-4, -3, -2])) == course_of([-4, -3, -2])


# --- figures ------------------------------------------------------------------------------------
class Pixels:
    """A judge whose features are the first four pixels."""

    width = 4

    def features(self, x):
        return x.flatten(1)[:, :4]


def test_a_distance_forgets_the_samples_of_before():
    """It is that of one set, however many were measured before."""
    generator = torch.Generator().manual_seed(0)
    real, one, other = (torch.rand(n, 1, 28, 28, generator=generator) for n in (300, 60, 80))
    distance = tuning_runs.Distance(Pixels(), real)

    def expected(x):
        (f, g) = (Pixels().features(images).double() for images in (real, x))
        return float(frechet_distance(f.mean(0), f.T.cov(), g.mean(0), g.T.cov()))

    for x in (one, 0.5 * other, one):
        assert distance(x) == pytest.approx(expected(x), rel=1e-6)


def test_pictures_come_back():
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert (unpacked(packed(images)) - images).abs().max() <= 0.5 / 255 + 1e-6


# --- what the report would say ------------------------------------------------------------------
def test_every_warning_of_the_report_has_a_short_name():
    """A fall, a distance that rises, and samples far from real ones, each alone and together."""
    fell = course_of([-4, -1, -3])
    away = course_of([-4, -2, -1], distance=[9, 1, 3])
    sound = course_of([-4, -2, -1], distance=[9, 2, 1])
    everything = course_of([-4, -1, -3], distance=[9, 1, 6])
    said = fashion_hacking.STUDY.warnings
    assert said(fashion_hacking.NONE, fell, 1.0) == ["held-out fell"]
    assert said(fashion_hacking.NONE, away, 1.0) == ["distance rose"]
    assert said(fashion_hacking.NONE, sound, 1.0) == []
    assert said(fashion_hacking.NONE, sound, 0.1) == ["far from real"]
    assert said(fashion_hacking.NONE, everything, 1.0) == list(remedies.SHORT.values())
    assert len(collapse.signs(everything, 1.0)) == len(remedies.SHORT)


def test_a_stopped_run_is_judged_by_what_it_keeps():
    """The best look, at which nothing has turned yet."""
    found = until_stopped(course_of([-4, -1, -3, -3], distance=[9, 1, 3, 3]))
    assert fashion_hacking.STUDY.kept(fashion_hacking.STOPPED, found)["step"] == 1
    assert fashion_hacking.STUDY.warnings(fashion_hacking.STOPPED, found, 1.0) == []


def test_a_run_hacks_at_a_high_reward_far_from_the_class():
    """Five times the told map's distance; half a nat below its reward, nothing has been gained."""
    level = {fashion_hacking.STEERING: -0.2, fashion_hacking.WITNESSED: 0.1}
    found = [
        fashion_hacking.outcome(
            {fashion_hacking.STEERING: reward, fashion_hacking.WITNESSED: distance}, level
        )
        for reward, distance in ((-0.1, 0.6), (-0.1, 0.4), (-0.69, 0.6), (-0.71, 0.6))
    ]
    assert found == ["hacked", "sound", "hacked", "not there"]
