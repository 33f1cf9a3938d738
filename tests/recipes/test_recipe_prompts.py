"""Prompts of a run: from the command line, from files, and what is refused."""

import pytest
import torch
from omegaconf import OmegaConf

from recipes.reporting import image_folders
from recipes.setup.prompts import prompts_of
from recipes.setup.schema import check
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


@pytest.mark.parametrize(("command", "key"), [("sample", "prompt"), ("tune", "tuning_prompt")])
def test_texts_may_be_made_by_a_node(command, key):
    made = {"_target_": "steer.data.scenes.scene_captions", "count": 5}
    check(command, {key: made})
    for wrong in ({**made, "number": 5}, {"_target_": "torch.nn.Linear"}):
        with pytest.raises(ValueError, match=key):
            check(command, {key: wrong})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "two hearts\n a blue key \n"),
        ("p.jsonl", '{"prompt": "two hearts"}\n{"caption": " a blue key"}'),
        ("p.csv", 'Prompts\ntwo hearts\n"a blue key"\n'),
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
            r"line 1: expected an object with one of prompt, prompts, cap",
        ),
        ("p.jsonl", '"a fish"', r"line 1: expected an object"),
        ("p.jsonl", '{"prompt": "  "}', r"line 1: it is blank"),
        ("p.jsonl", '{"prompt": "a fish", "map": "x"}', r"line 1: a column cannot be called 'map'"),
        ("p.csv", "Text,Kind\na fish,b\na key, blue,c\n", r"line 3: it has more columns than"),
        ("p.csv", "Prompts,Kind\na fish,b\n,c\n", r"line 3: it is blank"),
        ("p.tsv", "Words\tKind\na fish\tb\n", r"line 1: expected a header with one of prompt"),
        ("p.csv", "", r"line 1: expected a header"),
        ("p.csv", "Prompt,Tag,tag\na,b,c\n", r"line 1: two columns are called 'tag', 'Tag' and 't"),
        ("p.csv", "Prompt,a b,a-b\na,b,c\n", r"line 1: two columns are called 'a_b', 'a b' and"),
        ("p.csv", "Prompt,Prompt\na,b\n", r"line 1: two columns are called 'prompt'"),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": "a", "tag": 1, "tag": 2}',
            r"line 2: it has 'tag' ",
        ),
        ("p.csv", "Prompt,Texts\na,b\n", r"line 1: a column cannot be called 'texts'"),
        ("p.csv", "Prompt,token mask\na,b\n", r"line 1: a column cannot be called 'token_mask'"),
        ("p.csv", "Prompt,Kind,Size\na,b,c\nd,e\n", r"line 3: it has fewer columns than the head"),
        ("p.csv", "Prompt,Label\na,3\nb,x\n", r"line 3: the column 'label' holds a text, 'x', wh"),
        ("p.csv", "Prompt,Label\na,3\nb, \nc,4\n", r"line 3: the column 'label' holds numbers, a"),
        (
            "p.jsonl",
            '{"prompt": "a", "n": 3}\n{"prompt": "a", "n": "x"}',
            r"line 2: the column 'n'",
        ),
        (
            "p.jsonl",
            '{"prompt": "a", "n": true}\n{"prompt": "a", "n": 1}',
            r"line 2: .* a number, 1",
        ),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": "a", "n": 1}',
            r"line 1: .* holds numbers, and no",
        ),
        ("p.csv", "Prompts,Kind\n", r"line 1: it is blank"),
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


# --- columns -----------------------------------------------------------------------------------
DRAWBENCH = """Prompts,Category
A red colored car.,Colors
"A black apple, and a green backpack.",Colors
"A sign that says ""Hello"".",Text
"""
PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired\n"
    'The words "Fly an airplane" on a wall. \tOutdoor Scenes\tComplex\t\n'
)
GENEVAL = (
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], '
    '"prompt": "a photo of a bench"}\n'
    '{"tag": "counting", "include": [{"class": "cup", "count": 2}], '
    '"exclude": [{"class": "cup", "count": 3}], "prompt": "a photo of two cups"}\n'
)


def test_drawbench_parti_and_geneval_are_read_as_published(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return found(prompts=str(tmp_path / name)).cond.fields

    assert read("DrawBench.csv", DRAWBENCH) == {
        "texts": [
            "A red colored car.",
            "A black apple, and a green backpack.",
            'A sign that says "Hello".',
        ],
        "category": ["Colors", "Colors", "Text"],
    }
    assert read("PartiPrompts.tsv", PARTI) == {
        "texts": ["bond", 'The words "Fly an airplane" on a wall.'],
        "category": ["Abstract", "Outdoor Scenes"],
        "challenge": ["Basic", "Complex"],
        "note": ["Biology-inspired", ""],
    }
    assert read("evaluation_metadata.jsonl", GENEVAL) == {
        "texts": ["a photo of a bench", "a photo of two cups"],
        "tag": ["single_object", "counting"],
        "include": ['[{"class": "bench", "count": 1}]', '[{"class": "cup", "count": 2}]'],
        "exclude": ["", '[{"class": "cup", "count": 3}]'],
    }


def test_columns_of_numbers_are_tensors_and_rewards_see_all(tmp_path):
    lines = [
        '{"prompt": "a", "labels": 3, "weight": 0.5}',
        '{"prompt": "b", "labels": 1, "weight": 2}',
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    cond = found(prompts=str(tmp_path / "p.jsonl")).cond
    assert cond.labels.tolist() == [3, 1]
    assert not cond.labels.is_floating_point()
    assert cond.weight.tolist() == [0.5, 2.0]


def test_the_first_cell_of_a_column_of_a_table_says_whether_it_holds_numbers(tmp_path):
    table = "Prompt,Label,Weight,Id,Note\na,3,0.5,007,tall\nb,-1,2e0,8,3\nc, 0 ,1,9,\n"
    (tmp_path / "p.csv").write_text(table)
    cond = found(prompts=str(tmp_path / "p.csv")).cond
    assert cond.label.tolist() == [3, -1, 0]
    assert not cond.label.is_floating_point()
    assert cond.weight.tolist() == [0.5, 2.0, 1.0]
    assert cond.id == ["007", "8", "9"]
    assert cond.note == ["tall", "3", ""]


def test_a_column_called_as_what_the_index_of_pictures_says_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text("Prompt,Seed\na,3\n")
    prompts = found(prompts=str(tmp_path / "p.csv"))
    image_folders.refuse_columns(prompts, "geneval")  # whose file holds the columns alone
    image_folders.refuse_columns(found(prompt="a fish"), "plain")
    with pytest.raises(ValueError, match=r"images=plain: .*rename the column 'seed'"):
        image_folders.refuse_columns(prompts, "plain")


def test_a_reward_by_objects_reads_genevals_columns(tmp_path):
    from rewards import DetectedObjects

    (tmp_path / "p.jsonl").write_text(GENEVAL)
    cups = [{"label": "cup", "score": 0.95, "box": (k, 0, k + 1, 1)} for k in range(3)]
    detector = lambda x: [[{"label": "bench", "score": 0.4, "box": (0, 0, 1, 1)}], cups]  # noqa: E731
    cond = found(prompts=str(tmp_path / "p.jsonl")).cond
    assert DetectedObjects(detector)(torch.zeros(2, 3, 4, 4), cond).tolist() == [1.0, 0.0]
