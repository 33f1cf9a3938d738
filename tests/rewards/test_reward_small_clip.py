"""Small CLIPs: the tokenizer by words, both architectures, and ClipScore with one from a file."""

import re

import pytest
import torch
from safetensors import safe_open

from rewards import ClipScore, checkpoint, load_classifier, load_clip, save_classifier, save_clip
from rewards.networks import ResidualClassifier
from rewards.small_clip import SmallClip
from rewards.word_tokenizer import WordTokenizer
from steer.checkpoint import read_header

WORDS = ["a", "above", "blue", "heart", "hearts", "red", "star", "two"]
TEXT = {"width": 32, "layers": 2, "heads": 2, "context_length": 8}
TRANSFORMER = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
RESNET = {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1], "head_width": 64}
VISIONS = {"transformer": TRANSFORMER, "resnet": RESNET}
STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PROMPTS = ["two red hearts", "a blue star", "a red heart above a star"]


@pytest.fixture(params=VISIONS)
def clip(request):
    torch.manual_seed(0)
    made = SmallClip(WORDS, 16, VISIONS[request.param], TEXT)
    if request.param == "resnet":  # whose blocks begin as the identity
        for name, weight in made.named_parameters():
            if name.endswith("bn3.weight"):
                torch.nn.init.constant_(weight, 0.5)
    return made.eval().requires_grad_(False)


def images(n, side=32, dtype=torch.float32):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


# --- words --------------------------------------------------------------------------------------
def test_ids_are_start_words_end_and_padding():
    ids = WordTokenizer(WORDS, 8)(["Two red hearts.", "a star"])
    assert ids.tolist() == [[9, 8, 6, 5, 10, 0, 0, 0], [9, 1, 7, 10, 0, 0, 0, 0]]
    assert ids.dtype == torch.int64
    assert WordTokenizer(WORDS, 8).vocab_size == ids.max() + 1
    assert WordTokenizer(WORDS, 8)([]).shape == (0, 8)


def test_the_text_tower_reads_up_to_the_end_and_no_further(clip):
    ids = clip.tokenizer(["a red heart"])
    pooled = clip.clip.encode_text(ids)
    behind, before = ids.clone(), ids.clone()
    behind[0, -1] = 3
    before[0, 1] = 3
    torch.testing.assert_close(clip.clip.encode_text(behind), pooled)
    assert not torch.allclose(clip.clip.encode_text(before), pooled, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a prompt, got an empty one"),
        (" , ", "got an empty one"),
        ("a red hart", "knows no word 'hart'; did you mean 'heart'?"),
        ("a red heart above a blue star", "at most 6 words; got 7 in 'a red heart above"),
    ],
)
def test_texts_that_are_not_understood_are_told_on_one_line(text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        WordTokenizer(WORDS, 8)(["a star", text])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [[], ["a", "a"], ["a", "Red"], ["two hearts"], ["star."]])
def test_a_vocabulary_is_of_distinct_plain_words(words):
    with pytest.raises(ValueError, match="words are distinct, in lower case"):
        WordTokenizer(words, 8)


# --- the model ----------------------------------------------------------------------------------
def test_embeddings_are_unit_vectors_of_open_clips_towers(clip):
    x = images(3, clip.settings["vision"]["image_size"])
    mean, std = (torch.tensor(each)[:, None, None] for each in STATISTICS)
    theirs = clip.clip.encode_image((x - mean) / std, normalize=True)
    torch.testing.assert_close(clip.encode_image(x), theirs)
    torch.testing.assert_close(
        clip.encode_text(PROMPTS), clip.clip.encode_text(clip.tokenizer(PROMPTS), normalize=True)
    )


def test_the_architectures_differ():
    kinds = [
        {type(m).__name__ for m in SmallClip(WORDS, 16, v, TEXT).clip.visual.modules()}
        for v in VISIONS.values()
    ]
    assert "MultiheadAttention" in kinds[0]
    assert "Bottleneck" not in kinds[0]
    assert "Bottleneck" in kinds[1]


def test_gradient_of_the_score_is_the_finite_difference(clip):
    score = ClipScore.from_model(clip.clip, clip.tokenizer).double()
    x = images(3, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(score(x, PROMPTS).sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (score(x + sign * h * direction, PROMPTS) for sign in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    assert slope.abs().min() > 1e-6
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("vision", "text", "says"),
    [
        ({"depth": 2}, {}, "vision has no 'depth': "),
        ({}, {"layer": 2}, "text has no 'layer': did you mean 'layers'?"),
        ({}, {"vocab_size": 20}, "text has no 'vocab_size'"),
        ({"width": "wide"}, {}, "vision.width is "),
        ({"layers": 0}, {}, "vision.layers must be at least 1; got 0"),
        ({}, {"heads": 5}, "open_clip builds no model of vision="),
    ],
)
def test_settings_that_open_clip_does_not_take_are_refused(vision, text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        SmallClip(WORDS, 16, TRANSFORMER | vision, TEXT | text)
    assert "\n" not in str(error.value)


# --- files --------------------------------------------------------------------------------------
def test_a_file_gives_the_same_model_bit_for_bit(clip, tmp_path):
    path = tmp_path / "new" / "clip.safetensors"
    save_clip(path, clip, {"steps": 3})
    header = read_header(path)
    assert (header["kind"], header["steps"]) == ("clip", 3)
    assert header["build"]["words"] == WORDS
    loaded = load_clip(path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded.encode_image(images(2)), clip.encode_image(images(2)))
    assert torch.equal(loaded.encode_text(PROMPTS), clip.encode_text(PROMPTS))
    score = ClipScore(str(path))
    assert torch.equal(
        score(images(3), PROMPTS),
        ClipScore.from_model(clip.clip, clip.tokenizer)(images(3), PROMPTS),
    )


def test_half_precision_is_rounded_once_and_read_as_float32(clip, tmp_path):
    path = tmp_path / "clip.safetensors"
    save_clip(path, clip, half=True)
    with safe_open(path, "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}
    loaded = load_clip(path)
    for name, weight in loaded.state_dict().items():
        original = clip.state_dict()[name]
        assert weight.dtype == original.dtype
        if weight.is_floating_point():
            assert torch.equal(weight, original.half().float())
    close = (loaded.encode_image(images(2)) * clip.encode_image(images(2))).sum(1)
    assert (close > 0.999).all()


def test_shipped_clips_are_told_from_classifiers(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    save_clip(tmp_path / "a-clip.safetensors", clip)
    save_classifier(tmp_path / "a-judge.safetensors", ResidualClassifier(width=8))
    assert checkpoint.shipped() == ["a-judge"]
    assert checkpoint.shipped(checkpoint.CLIP) == ["a-clip"]
    assert ClipScore("a-clip", prompt="a star")(images(2)).shape == (2,)
    with pytest.raises(ValueError, match=r"no clip 'a-clop'.*did you mean 'a-clip'\?"):
        load_clip("a-clop")
    with pytest.raises(ValueError, match=r"open_clip has no model 'a-clop'.*'a-clip'"):
        ClipScore("a-clop")
    with pytest.raises(ValueError, match="expected kind 'clip', got 'classifier'"):
        load_clip(tmp_path / "a-judge.safetensors")
    with pytest.raises(ValueError, match="expected kind 'classifier', got 'clip'"):
        load_classifier(tmp_path / "a-clip.safetensors")
    with pytest.raises(ValueError, match="'a-clip' has its weights: leave out pretrained='openai'"):
        ClipScore("a-clip", "openai")


def test_a_prompt_that_is_not_understood_is_refused_by_the_score(clip):
    score = ClipScore.from_model(clip.clip, clip.tokenizer)
    with pytest.raises(ValueError, match="knows no word 'green'"):
        score(images(1), ["a green star"])


def test_every_shipped_clip_scores():
    for name in checkpoint.shipped(checkpoint.CLIP):
        assert ClipScore(name)(images(2), ["a red heart", "a blue star"]).isfinite().all()
