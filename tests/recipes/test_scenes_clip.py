"""The false captions of `recipes.experiments.scenes_clip`: false, and one change from true."""

import numpy as np
import pytest

from recipes.experiments.scenes_clip import TASKS, pair
from steer.data.scenes import Reading, Seen, draw_scenes, parse, shown

MADE = draw_scenes("heldout", 250, seed=5)


def truth(scene):
    """What a reader without error finds."""
    return Reading(tuple(Seen(i.shape, i.colour, i.size, i.x, i.y, 1.0) for i in scene.items))


@pytest.mark.parametrize("task", TASKS)
def test_the_true_caption_is_true_and_the_false_one_false(task):
    changed = 0
    for k, made in enumerate(MADE):
        asked = parse(made.caption)
        other = TASKS[task](asked, np.random.default_rng(k))
        if other is None:
            continue
        true, false = pair(asked, other, k)
        assert shown(truth(made.scene), parse(true))["overall"], true
        assert not shown(truth(made.scene), parse(false))["overall"], (true, false)
        assert parse(true) != parse(false)
        changed += 1
    assert changed > 40
