"""ClipScore on a tiny open_clip model of random weights."""

import sys
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import rewards
from rewards import ClipScore, open_clip_model
from rewards.preprocess import Preprocess

PROMPTS = ["a red shirt", "a boot", "a red shirt"]


@pytest.fixture
def score(tiny_clip):
    return ClipScore(*tiny_clip)


def images(n, c=3, h=20, w=24):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0))


def test_the_score_is_open_clips_cosine(score):
    import open_clip

    tokens = open_clip.get_tokenizer("tiny-clip")(PROMPTS)
    with torch.no_grad():
        x = score.preprocess(images(3))
        cosine = torch.cosine_similarity(
            score.model.encode_image(x), score.model.encode_text(tokens)
        )
    torch.testing.assert_close(score(images(3), PROMPTS), cosine)
    assert cosine.abs().max() <= 1


def test_prompts_per_sample_or_fixed(score, tiny_clip):
    fixed = ClipScore(*tiny_clip, prompt="a boot", scale=100.0)
    x = images(3)
    together = score(x, PROMPTS)
    alone = [score(x[i : i + 1], [prompt]) for i, prompt in enumerate(PROMPTS)]
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(100 * score(x, ["a boot"] * 3), fixed(x))
    torch.testing.assert_close(fixed(x, PROMPTS), fixed(x))


def test_a_prompt_is_embedded_once_and_again_after_a_move(score):
    calls = []
    tokenizer = score.tokenizer
    score.tokenizer = lambda texts: calls.append(texts) or tokenizer(texts)
    with torch.inference_mode():
        score(images(3), PROMPTS)
    x = images(3).requires_grad_()
    assert torch.autograd.grad(score(x, PROMPTS).sum(), x)[0].isfinite().all()
    assert calls == [["a red shirt"], ["a boot"]]
    score.double()
    assert score(images(3).double(), PROMPTS).dtype == torch.float64
    assert len(calls) == 4


def test_gradient_reaches_the_pixels_and_no_weight(score):
    x = images(2).requires_grad_()
    score(x, PROMPTS[:2]).sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None for p in score.parameters())


def test_pixels_outside_the_range_score_as_the_picture_that_is_saved(score):
    x = (1.6 * images(2) - 0.3).requires_grad_()
    outside = (x < 0) | (x > 1)
    value = score(x, PROMPTS[:2])
    torch.testing.assert_close(value, score(x.detach().clamp(0, 1), PROMPTS[:2]))
    value.sum().backward()
    assert outside.float().mean() > 0.2
    assert x.grad[outside].count_nonzero() == 0
    assert x.grad[~outside].count_nonzero() > 0


def test_greyscale_is_three_equal_channels(score):
    x = images(2, c=1)
    torch.testing.assert_close(score(x, PROMPTS[:2]), score(x.repeat(1, 3, 1, 1), PROMPTS[:2]))


def test_from_model(score):
    again = ClipScore.from_model(score.model, score.tokenizer, prompt="a boot")
    torch.testing.assert_close(again(images(2)), score(images(2), ["a boot"] * 2))


@pytest.mark.parametrize("size", [32, (32, 24)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(50, 77), (77, 50), (20, 16), (32, 32)])
def test_preprocessing_agrees_with_open_clips_own(size, resize_mode, shape):
    """On smooth images within .05 in normalised units: Pillow rounds to 8 bits after each pass."""
    config = PreprocessCfg(size=size, resize_mode=resize_mode)
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j]
    waves = np.stack([np.sin(4 * x + y), np.cos(3 * y), np.sin(2 * x * y)], -1)
    pixels = (127.5 + 100 * waves).round().astype(np.uint8)
    theirs = image_transform_v2(config, is_train=False)(Image.fromarray(pixels))
    ours = Preprocess(asdict(config))(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_preprocessing_overshoot_at_hard_edges_is_bounded():
    """On noise, single pixels differ by up to .6 and the mean by .01: 8 bits clip the overshoot."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    theirs = image_transform_v2(PreprocessCfg(), is_train=False)(Image.fromarray(pixels))
    ours = Preprocess(asdict(PreprocessCfg()))(
        torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    )[0]
    assert (ours - theirs).abs().max() < 0.6
    assert (ours - theirs).abs().mean() < 0.01


def test_missing_prompts_and_channels_are_refused(score):
    with pytest.raises(ValueError, match="expected a list of 2 prompts in cond, got NoneType"):
        score(images(2))
    with pytest.raises(ValueError, match="got 3 entries"):
        score(images(2), PROMPTS)
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        score(images(2, c=4), PROMPTS[:2])


def test_unknown_models_and_weights_are_refused(tiny_clip, tmp_path):
    def refused(model, pretrained, complaint):
        with pytest.raises(ValueError, match=complaint) as error:
            ClipScore(model, pretrained)
        assert "\n" not in str(error.value)

    refused("ViT-B-23", "openai", r"no model 'ViT-B-23': did you mean 'ViT-B-32'\?")
    refused("ViT-B/32", "open-ai", r"'open-ai'.*did you mean 'openai'\?")
    refused(
        "ViT-B-32",
        None,
        "without weights would score at random: give pretrained= as a file or one of openai",
    )
    refused("tiny-clip", None, "would score at random: .* a checkpoint file")
    refused("tiny-clip", str(tmp_path / "none.pt"), "neither a file nor a tag")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    refused("tiny-clip", str(tmp_path / "bad.pt"), "cannot be loaded")
    torch.save({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.pt")
    refused(
        "tiny-clip", str(tmp_path / "other.pt"), "cannot be loaded.*check that these weights belong"
    )
    refused("local-dir:" + str(tmp_path), None, "cannot be loaded.*open_clip_config.json")


def test_a_file_for_a_model_with_a_quickgelu_twin_is_warned_of(tmp_path):
    (tmp_path / "weights.pt").touch()
    import open_clip

    with pytest.warns(UserWarning, match="'ViT-B-32-quickgelu'"):
        open_clip_model.check_known(open_clip, "ViT-B-32", str(tmp_path / "weights.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_clip_model.check_known(open_clip, "ViT-B-32-quickgelu", str(tmp_path / "weights.pt"))


def test_a_torchvision_of_another_build_is_told_on_one_line(tmp_path, monkeypatch):
    (tmp_path / "open_clip.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.delitem(sys.modules, "open_clip")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"torchvision::nms does not exist.*matching pair"):
        rewards.ClipScore("ViT-B-32", "openai")
