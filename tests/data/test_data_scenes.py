"""Captioned scenes: captions are true and can be read back, splits hold, and seeds decide all."""

import itertools

import numpy as np
import pytest
import torch

from recipes.setup.config import load
from steer.data import Scenes
from steer.data.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Asked,
    Background,
    Group,
    Item,
    Reading,
    Scene,
    Seen,
    captioned_scenes,
    describe,
    draw_scenes,
    held_out,
    parse,
    render,
    scene_captions,
    shown,
    vocabulary,
)
from steer.data.scenes.scene import OPPOSITE

SNOW = Background("snow", "snow")


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes("all", 600, seed=5)


def as_read(scene):
    """A reading without an error."""
    items = (Seen(i.shape, i.colour, i.size, i.x, i.y, 1.0) for i in scene.items)
    return Reading(tuple(items))


def test_captions_alone_are_those_of_the_scenes_without_repeats():
    said = [each.caption for each in draw_scenes("heldout", 120, seed=4)]
    captions = scene_captions("heldout", 100, 4)
    assert captions == list(dict.fromkeys(said))[:100]
    assert all(held_out(parse(caption)) for caption in captions)


def test_captions_are_true(scenes):
    for each in scenes:
        said = shown(as_read(each.scene), parse(each.caption))
        assert all(value in (True, None) for value in said.values()), each


def test_objects_lie_inside_and_hardly_overlap(scenes):
    for each in scenes:
        for item in each.scene.items:
            reach = SIZES[item.size] / 2
            assert reach + 1 <= min(item.x, item.y)
            assert max(item.x, item.y) <= 31 - reach
        for a, b in itertools.combinations(each.scene.items, 2):
            least = min(SIZES[a.size], SIZES[b.size])
            reach = (SIZES[a.size] + SIZES[b.size]) / 2
            wide, high = (min(max(reach - d, 0), least) for d in (abs(a.x - b.x), abs(a.y - b.y)))
            assert wide * high <= 0.2 * least**2


def asked_for():
    """What captions can ask for: every shape, colour and number, alone and in relations."""
    for (k, shape), count in itertools.product(enumerate(SHAPES), (1, 2, 3)):
        colour = [*COLOURS, None][(k + count) % 9]
        yield Asked((Group(shape, colour, count, True),))
        other = list(SHAPES)[(k + 5) % len(SHAPES)]
        for relation in (*RELATIONS, None):
            pair = (Group(shape, colour), Group(other, None, min(count, 2), count > 1))
            yield Asked(pair, relation)


@pytest.mark.parametrize("asked", list(asked_for()), ids=str)
def test_words_lead_back_to_what_was_asked(asked):
    rng = np.random.default_rng(0)
    backwards = Asked(asked.groups[::-1], OPPOSITE.get(asked.relation or ""))
    found = {parse(describe(asked, rng)) for _ in range(12)}
    assert found <= {asked, backwards}


def test_wordings_differ():
    asked = Asked((Group("heart", "red", 2, True), Group("star", "blue")), "above")
    rng = np.random.default_rng(0)
    said = {describe(asked, rng) for _ in range(300)}
    assert {"two red hearts above a blue star", "a blue star below two red hearts"} <= said
    assert len(said) > 20


@pytest.mark.parametrize(
    ("caption", "complaint"),
    [
        ("", "empty"),
        ("  .", "empty"),
        ("two red harts", r"no word 'harts', did you mean 'hearts'\?"),
        ("a bleu star", r"no word 'bleu', did you mean 'blue'\?"),
        ("a green dragon on a unicorn", "'dragon'.*'unicorn'"),
        ("red a heart", "not understood at 'a'"),
        ("a heart above", "not understood at its end"),
        ("a heart and a star and a moon", "not understood at 'and'"),
        ("red hearts", "say how many hearts"),
        ("three hearts and two stars", "asks for 5 objects"),
    ],
)
def test_captions_that_are_refused(caption, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        parse(caption)
    assert "\n" not in str(error.value)


def test_splits_hold(scenes):
    for each in draw_scenes("heldout", 100):
        assert held_out(parse(each.caption))
    drawn = [parse(each.caption) for each in draw_scenes("train", 1500)]
    assert not any(held_out(asked) for asked in drawn)
    groups = [group for asked in drawn for group in asked.groups]
    assert {group.shape for group in groups} == set(SHAPES)
    assert {group.colour for group in groups} == {*COLOURS, None}
    assert {group.count for group in groups} == {1, 2, 3}
    assert {asked.relation for asked in drawn} == {*RELATIONS, None}


def test_training_scenes_show_no_held_out_colour_or_number():
    for each in draw_scenes("train", 300):
        kinds = {(item.shape, item.colour) for item in each.scene.items}
        for shape, colour in kinds:
            count = sum(item.shape == shape for item in each.scene.items)
            assert not held_out(Asked((Group(shape, colour, count),)))


def test_what_is_held_out():
    pairs = [(s, c) for s in SHAPES for c in COLOURS if held_out(Asked((Group(s, c),)))]
    assert len(pairs) == len({s for s, _ in pairs}) == len(SHAPES)
    assert {c for _, c in pairs} == set(COLOURS)
    triples = list(itertools.product(SHAPES, RELATIONS, SHAPES))
    held = [t for t in triples if held_out(Asked((Group(t[0]), Group(t[2])), t[1]))]
    assert 0.08 < len(held) / len(triples) < 0.17
    assert {(b, OPPOSITE[r], a) for a, r, b in held} == set(held)


def test_scene_k_depends_on_split_seed_and_k_alone():
    many = draw_scenes("train", 20, seed=2)
    assert draw_scenes("train", 5, seed=2) == many[:5]
    assert draw_scenes("train", 5, seed=3) != many[:5]
    assert np.array_equal(render([e.scene for e in many])[7:8], render([many[7].scene]))


def test_drawing_is_where_it_should_be():
    for shape, (y, x) in itertools.product(SHAPES, ((10.0, 20.0), (17.25, 9.5))):
        (picture,) = render([Scene((Item(shape, "blue", "large", x, y),), SNOW)])
        off = np.abs(picture.astype(int) - picture[0, 0]).max(-1) > 24
        rows, columns = off.nonzero()
        assert np.abs(rows + 0.5 - y).max() < 8
        assert np.abs(columns + 0.5 - x).max() < 8
        assert off.sum() > 50


def test_later_items_lie_in_front():
    back = Item("cloud", "red", "large", 14.0, 16.0)
    front = Item("cloud", "blue", "large", 18.0, 16.0)
    pictures = render([Scene((back, front), SNOW), Scene((front, back), SNOW)])
    red, _, blue = np.moveaxis(pictures[:, 17, 17], -1, 0).astype(int)
    assert blue[0] - red[0] > 100
    assert red[1] - blue[1] > 100


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"shape": "dragon"}, "shape"),
        ({"colour": "grey"}, "colour"),
        ({"size": "huge"}, "size"),
        ({"x": 2.0}, "centre"),
    ],
)
def test_items_that_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        Item(**{"shape": "heart", "colour": "red", "size": "small", "x": 16, "y": 16, **change})


def test_sets_are_kept(tmp_path, monkeypatch):
    pictures, captions = captioned_scenes("train", 12, 1, tmp_path)
    assert (pictures.shape, pictures.dtype) == ((12, 3, 32, 32), torch.uint8)
    made = draw_scenes("train", 12, 1)
    assert captions == [each.caption for each in made]
    drawn = torch.from_numpy(render([each.scene for each in made])).permute(0, 3, 1, 2)
    assert torch.equal(pictures, drawn)
    monkeypatch.delattr("steer.data.scenes.sample.draw_scenes")
    again, same = captioned_scenes("train", 12, 1, tmp_path)
    assert torch.equal(again, pictures)
    assert same == captions


def test_a_broken_file_is_named(tmp_path):
    captioned_scenes("train", 1, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="delete it"):
        captioned_scenes("train", 1, 0, tmp_path)


def test_sets_that_are_refused():
    with pytest.raises(ValueError, match="'train', 'heldout', 'all'; got 'test'"):
        Scenes(4, split="test")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        draw_scenes("train", 0)


def test_module_draws_matching_pairs(tmp_path):
    data = Scenes(6, count=20, validation=7, folder=tmp_path)
    data.prepare_data()
    data.setup("fit")
    x, captions = data.draw(torch.Generator().manual_seed(0))
    assert (x.shape, x.dtype, len(captions)) == ((6, 3, 32, 32), torch.float32, 6)
    pictures, known = captioned_scenes("train", 20, 0, tmp_path)
    for picture, caption in zip(x, captions, strict=True):
        where = ((picture + 1) * 127.5 - pictures).abs().flatten(1).amax(1).argmin().item()
        assert known[where] == caption
    ((x, captions),) = data.val_dataloader()
    assert (len(x), len(captions)) == (7, 7)
    assert all(held_out(parse(caption)) for caption in captions)


def test_the_map_of_scenes_knows_the_words_of_the_captions():
    """Its config lists them, so that a trained map keeps its own when the world learns others."""
    network = load("train", "scenes/train").model.network
    assert list(network.condition.words) == vocabulary()
