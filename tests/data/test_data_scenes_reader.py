"""The reader of scenes finds what was drawn, and sees nothing where nothing is."""

from collections import Counter

import pytest
import torch

from rewards import SceneAccuracy
from steer.data.scenes import (
    COLOURS,
    SHAPES,
    TASKS,
    Background,
    Item,
    Reading,
    Scene,
    Seen,
    draw_scenes,
    parse,
    read,
    render,
    score,
    shown,
)
from steer.data.scenes.templates import blurred


def pictures_of(scenes):
    return torch.from_numpy(render(scenes)).permute(0, 3, 1, 2).float() / 255


def sampled(pictures):
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    return (blurred(pictures, 0.6) + 0.05 * noise).clamp(0, 1)


def kinds(items):
    return Counter((item.shape, item.colour) for item in items)


def accuracy(scenes, pictures):
    """Share of scenes whose objects are read right, and of captions judged true."""
    found = read(pictures)
    right = [
        kinds(reading.items) == kinds(each.scene.items)
        for reading, each in zip(found, scenes, strict=True)
    ]
    return sum(right) / len(right), score(pictures, [each.caption for each in scenes])


@pytest.mark.slow
@pytest.mark.parametrize(("change", "least"), [(lambda x: x, 0.995), (sampled, 0.97)])
def test_right_on_a_thousand_scenes(change, least):
    scenes = draw_scenes("all", 1000, seed=1)
    right, judged = accuracy(scenes, change(pictures_of([each.scene for each in scenes])))
    assert right >= least
    for task in TASKS:
        assert judged[task].nanmean() >= least, task


@pytest.mark.parametrize("change", [lambda x: x, sampled])
def test_right_on_scenes(change):
    scenes = draw_scenes("all", 100, seed=2)
    right, judged = accuracy(scenes, change(pictures_of([each.scene for each in scenes])))
    assert right >= 0.97
    assert judged["overall"].mean() >= 0.97


def test_every_shape_and_colour_is_found_in_its_place():
    items = [
        Item(shape, colour, ("small", "large")[(i + k) % 2], 10 + i / 4, 20 - k / 4)
        for i, shape in enumerate(SHAPES)
        for k, colour in enumerate(COLOURS)
        if (i + k) % 3 == 0
    ]
    grounds = [Background("mist", "cream", 45), Background("midnight", "midnight")]
    scenes = [Scene((item,), grounds[k % 2]) for k, item in enumerate(items)]
    for reading, item in zip(read(pictures_of(scenes)), items, strict=True):
        (seen,) = reading.items
        assert (seen.shape, seen.colour, seen.size) == (item.shape, item.colour, item.size)
        assert max(abs(seen.x - item.x), abs(seen.y - item.y)) <= 0.25


def test_nothing_is_seen_where_nothing_is():
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(8, 3, 1, 1, generator=generator).expand(-1, -1, 32, 32)
    faint = (plain + 0.05 * torch.randn(8, 3, 32, 32, generator=generator)).clamp(0, 1)
    loud = torch.rand(8, 3, 32, 32, generator=generator)
    clouds = blurred(torch.randn(8, 3, 32, 32, generator=generator), 3.0)
    clouds = (0.5 + 0.2 * clouds / clouds.std()).clamp(0, 1)
    assert not any(reading.items for reading in read(torch.cat((plain, faint, loud, clouds))))


def test_batch_mates_do_not_matter():
    pictures = sampled(pictures_of([each.scene for each in draw_scenes("all", 6, seed=3)]))
    alone = [read(picture[None])[0] for picture in pictures]
    for one, other in zip(read(pictures), alone, strict=True):
        plain = [(s.shape, s.colour, s.size, s.x, s.y) for s in one.items]
        assert plain == [(s.shape, s.colour, s.size, s.x, s.y) for s in other.items]


@pytest.mark.parametrize(
    ("pictures", "complaint"),
    [
        (torch.zeros(3, 32, 32), r"\(b, 3, 32, 32\)"),
        (torch.zeros(2, 1, 32, 32), r"\(b, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32).index_fill(0, torch.tensor(1), torch.nan), "picture 1"),
    ],
)
def test_pictures_that_are_refused(pictures, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(pictures)


# --- judging ------------------------------------------------------------------------------------
HEART = Seen("heart", "red", "small", 8.0, 8.0, 1.0)
SECOND = Seen("heart", "red", "small", 20.0, 8.0, 1.0)
BLUE_HEART = Seen("heart", "blue", "small", 20.0, 8.0, 1.0)
STAR = Seen("star", "blue", "large", 14.0, 22.0, 1.0)
RED_STAR = Seen("star", "red", "large", 14.0, 22.0, 1.0)


@pytest.mark.parametrize(
    ("items", "caption", "expected"),
    [
        ((HEART,), "a red heart", {"object": 1, "colour": 1, "overall": 1}),
        ((BLUE_HEART,), "a red heart", {"object": 1, "colour": 0, "overall": 0}),
        ((HEART, SECOND), "a red heart", {"object": 1, "colour": 1, "overall": 1}),
        (
            (HEART, BLUE_HEART),
            "one red heart",
            {"object": 1, "count": 0, "colour": 1, "overall": 0},
        ),
        ((HEART, SECOND, STAR), "two hearts", {"object": 1, "count": 1, "overall": 1}),
        ((HEART,), "two hearts", {"object": 1, "count": 0, "overall": 0}),
        (
            (HEART, STAR),
            "a red heart above a blue star",
            {"two_objects": 1, "position": 1, "attribute_binding": 1, "overall": 1},
        ),
        (
            (BLUE_HEART, RED_STAR),
            "a red heart above a blue star",
            {"two_objects": 1, "position": 1, "attribute_binding": 0, "overall": 0},
        ),
        (
            (HEART, STAR),
            "a heart below a blue star",
            {"two_objects": 1, "position": 0, "overall": 0},
        ),
        ((HEART,), "a heart and a star", {"two_objects": 0, "overall": 0}),
        (
            (HEART, SECOND, STAR),
            "two red hearts left of a star",
            {"count": 1, "two_objects": 1, "position": 0, "overall": 0},
        ),
        ((), "a heart", {"object": 0, "overall": 0}),
    ],
)
def test_tasks(items, caption, expected):
    said = shown(Reading(items), parse(caption))
    assert set(said) == set(TASKS)
    assert {task: value for task, value in said.items() if value is not None} == expected


def test_score_gives_nan_where_a_task_does_not_apply():
    pictures = pictures_of(
        [Scene((Item("heart", "red", "large", 16, 16),), Background("mist", "mist"))]
    )
    judged = score(pictures.expand(2, -1, -1, -1), ["a red heart", "a red heart above a star"])
    assert judged["object"].isnan().tolist() == [False, True]
    assert judged["overall"].tolist() == [1, 0]


@pytest.mark.parametrize("captions", [["a heart"], "a heart"])
def test_captions_that_do_not_fit_are_refused(captions):
    with pytest.raises(ValueError, match="one caption for each of 2 pictures"):
        score(torch.zeros(2, 3, 32, 32), captions)


def test_reward_of_a_task():
    pictures = pictures_of(
        [Scene((Item("heart", "red", "large", 16, 16),), Background("mist", "mist"))]
    )
    pictures = pictures.expand(2, -1, -1, -1)
    reward = SceneAccuracy("steer.data.scenes.score")
    assert reward(pictures, ["a red heart", "a blue heart"]).tolist() == [1, 0]
    assert SceneAccuracy(score, "object")(pictures, ["a red heart"] * 2).tolist() == [1, 1]
    with pytest.raises(ValueError, match="'count' does not apply to the caption 'a heart'"):
        SceneAccuracy(score, "count")(pictures, ["two hearts", "a heart"])
    with pytest.raises(ValueError, match="did you mean 'colour'"):
        SceneAccuracy(score, "color")(pictures, ["a heart"] * 2)
    with pytest.raises(ValueError, match="expected a caption for each picture, got none"):
        reward(pictures)
