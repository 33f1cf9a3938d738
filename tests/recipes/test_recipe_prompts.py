"""Prompts of a run: from the command line, from files, and what is refused."""

import pytest
import torch
from omegaconf import OmegaConf

from recipes.setup.prompts import prompts_of
from steer.data.scenes import scene_captions

CPU = torch.device("cpu")


def config(**keys):
    given = {"condition": {"labels": None, "names": None}, "prompt": None, "prompts": 1, **keys}
    return OmegaConf.create(given)


def found(**keys):
    prompts = prompts_of(config(**keys), CPU)
    assert len(prompts) == len(prompts.titles)
    return prompts


def test_a_text_or_texts_take_the_place_of_labels():
    labels = {"labels": [1, 2], "names": None}
    assert found(prompt="a red fish", condition=labels).cond == ["a red fish"]
    two = found(prompt=["a fish", "a key"], condition=labels)
    assert two.cond == two.titles == ["a fish", "a key"]
    assert found(condition=labels).cond.tolist() == [1, 2]
    made = {"_target_": "steer.data.scenes.scene_captions", "count": 5, "seed": 3}
    assert found(prompt=made).cond == scene_captions("heldout", 5, 3)
    assert found(prompts=3).cond is None
    assert len(found(prompts=3)) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "two hearts\n a blue key \n"),
        ("p.jsonl", '{"prompt": "two hearts", "tag": 1}\n{"caption": " a blue key"}'),
    ],
)
def test_a_file_has_a_prompt_a_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert found(prompts=str(tmp_path / name)).cond == ["two hearts", "a blue key"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "a fish\n\na key\n", r"p\.txt, line 2: it is blank"),
        ("p.txt", "", r"line 1: it is blank"),
        (
            "p.jsonl",
            '{"prompt": "a fish"}\n{"prompt": ',
            r"line 2: it is no JSON \(Exp",
        ),
        (
            "p.jsonl",
            '{"label": 3}',
            r"line 1: expected an object with one of prompt, cap",
        ),
        ("p.jsonl", '"a fish"', r"line 1: expected an object"),
        ("p.jsonl", '{"prompt": "  "}', r"line 1: it is blank"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        found(prompts=str(tmp_path / name))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"prompt": ""}, r"prompt is a text, or a list of texts; got ''"),
        ({"prompt": ["a fish", " "]}, r"got ' '"),
        ({"prompts": "nowhere.txt"}, r"prompts=nowhere\.txt: there is no such file"),
        ({"prompt": "a fish", "prompts": "p.txt"}, r"give prompt, or prompts=p\.txt, not both"),
        ({"condition": {"labels": ["a", 1], "names": None}}, r"holds numbers or texts"),
        (
            {"condition": {"labels": ["shirt"], "names": ["shoe", "shirts"]}},
            r"did you mean 'shirts'",
        ),
        ({"condition": {"labels": [1], "names": "steer.no_such"}}, r"condition\.names: "),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(keys, says):
    with pytest.raises(ValueError, match=says) as error:
        found(**keys)
    assert "\n" not in str(error.value)
