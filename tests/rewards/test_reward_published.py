"""Published rewards on tiny weights of the published names, against the libraries of origin."""

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import rewards
from rewards.clip_keys import to_open_clip
from rewards.weight_files import weight_file

PROMPTS = ["a red shirt", "a boot", "two moons"]


def images(n, h=32, w=32, dtype=torch.float32):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0), dtype=dtype)


def tokens(prompts):
    import open_clip

    return open_clip.get_tokenizer("tiny-clip")(prompts)


def embeddings(model, x, prompts):
    """The unit embeddings of a transformers.CLIPModel."""
    ids = tokens(prompts)
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=x)
    return F.normalize(found.image_embeds, dim=-1), F.normalize(found.text_embeds, dim=-1)


# --- PickScore ----------------------------------------------------------------------------------
def test_pick_score_is_that_of_the_transformers_model(hugging_clip):
    model, path = hugging_clip
    reward = rewards.PickScore(path, model="tiny-clip")
    x = images(3)
    image, text = embeddings(model, reward.preprocess(x), PROMPTS)
    expected = model.logit_scale.exp() * (image * text).sum(-1)
    assert expected.std() > 0.1
    torch.testing.assert_close(reward(x, PROMPTS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [64, 94, 96, 98])
def test_pick_score_looks_at_pictures_as_the_published_processor_does(hugging_clip, width):
    """Margins of 0, 15, 16 and 17 pixels: transformers and open_clip differ at 15."""
    from transformers import CLIPImageProcessor

    side = {"shortest_edge": 32}
    processor = CLIPImageProcessor(size=side, crop_size={"height": 32, "width": 32})
    y, x = np.mgrid[0 : 1 : 64 * 1j, 0 : 1 : width * 1j]
    waves = np.stack([np.sin(9 * x + y), np.cos(9 * x), np.sin(12 * x * y)], -1)
    pixels = (127.5 + 100 * waves).round().astype(np.uint8)
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    reward = rewards.PickScore(hugging_clip[1], model="tiny-clip")
    ours = reward.preprocess(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03)  # 8 bits are .015 here


def test_every_weight_is_renamed_and_strangers_are_refused(hugging_clip, tiny_clip):
    import open_clip

    renamed = to_open_clip(hugging_clip[0].state_dict())
    theirs = open_clip.create_model("tiny-clip").state_dict()
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in theirs.items()}
    with pytest.raises(ValueError, match=r"'visual.proj' is no weight of a transformers.CLIPModel"):
        to_open_clip({"visual.proj": torch.zeros(1)})


# --- HPSv2 --------------------------------------------------------------------------------------
def test_hps_is_the_cosine_of_the_whole_padded_picture(tiny_clip, tmp_path):
    weights = torch.load(tiny_clip[1], weights_only=True)
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "hps.pt")
    reward = rewards.HpsV2(str(tmp_path / "hps.pt"), model="tiny-clip")
    plain = rewards.ClipScore(*tiny_clip)
    x = images(3, 16, 32)
    padded = F.pad(x, (0, 0, 8, 8))  # black above and below, before the picture is normalised
    torch.testing.assert_close(reward(x, PROMPTS), plain(padded, PROMPTS))
    assert (reward(x, PROMPTS) - plain(x, PROMPTS)).abs().min() > 1e-3


# --- aesthetic ratings --------------------------------------------------------------------------
def test_ratings_are_those_of_the_layers_on_unit_embeddings(tiny_clip, ratings):
    linear, chain, folder = ratings
    first = rewards.AestheticV1(str(folder / "linear.pth"), *tiny_clip)
    second = rewards.AestheticV2(str(folder / "mlp.pth"), *tiny_clip)
    x = images(3, 40, 48)
    with torch.no_grad():
        f = F.normalize(first.model.encode_image(first.preprocess(x)), dim=-1)
        torch.testing.assert_close(first(x), linear(f)[:, 0])
        torch.testing.assert_close(second(x), chain(f)[:, 0])
    with pytest.raises(ValueError, match=r"mlp.pth: these weights are not of this Linear \(2 miss"):
        rewards.AestheticV1(str(folder / "mlp.pth"), *tiny_clip)


# --- direction, concepts, quality ---------------------------------------------------------------
def test_direction_is_one_for_the_change_asked_for(tiny_clip):
    x0 = images(1)[0]
    reward = rewards.ClipDirection("a photo", "a sketch", x0, *tiny_clip)
    wanted = reward.embedding("a sketch") - reward.embedding("a photo")
    before = reward.images(x0[None])
    across = torch.eye(16)[0] - wanted[0] * wanted / wanted.square().sum()
    moves = torch.stack([wanted, -wanted, across])
    reward.images = lambda x: before + 0.3 * moves if len(x) == 3 else before
    torch.testing.assert_close(reward(images(3)), torch.tensor([1.0, -1.0, 0.0]), atol=1e-5, rtol=0)


def test_concepts_cost_what_they_exceed(tiny_clip):
    x = images(3)
    concepts = ["a gun", "blood"]
    cosines = [rewards.ClipScore(*tiny_clip, prompt=concept)(x) for concept in concepts]
    threshold = float(cosines[0].median())
    reward = rewards.ConceptPenalty(concepts, threshold, *tiny_clip)
    expected = sum((cosine - threshold).clamp(min=0) for cosine in cosines)
    assert expected.max() > 1e-4
    torch.testing.assert_close(reward(x), -expected)
    torch.testing.assert_close(sum(reward.terms(x).values()), -expected)
    assert (rewards.ConceptPenalty(concepts, 1.0, *tiny_clip)(x) == 0).all()


def test_clip_iqa_is_that_of_torchmetrics(hugging_clip, tiny_clip, tmp_path):
    """Against torchmetrics' own functions on the transformers model, for the same pixels."""
    from torchmetrics.functional.multimodal.clip_iqa import (
        _clip_iqa_compute,
        _clip_iqa_get_anchor_vectors,
        _clip_iqa_update,
    )

    model, _ = hugging_clip
    torch.save(to_open_clip(model.state_dict()), tmp_path / "twin.pt")
    texts = ["Sharp photo.", "Blurry photo."]
    reward = rewards.ClipIqa(*texts, "tiny-clip", str(tmp_path / "twin.pt"))
    x = images(3)

    class Processor:
        def __call__(self, text=None, images=None, **_):
            if images is not None:
                return {"pixel_values": reward.preprocess(torch.stack(images))}
            ids = tokens(text)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    class Plain:  # what torchmetrics expects: features as tensors
        get_text_features = staticmethod(lambda ids, mask: features(model.get_text_features(ids)))
        get_image_features = staticmethod(lambda x: features(model.get_image_features(x)))

    with torch.no_grad():
        anchors = _clip_iqa_get_anchor_vectors("", Plain, Processor(), texts, "cpu")
        found = _clip_iqa_update("", x, Plain, Processor(), 1.0, "cpu")
        expected = _clip_iqa_compute(found, anchors, ["quality"])
    assert expected.std() > 0.1
    torch.testing.assert_close(reward(x), expected, rtol=1e-5, atol=1e-5)


def features(found):
    """The tensor of what a CLIPModel returns, which some versions wrap."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


# --- ImageReward --------------------------------------------------------------------------------
def test_image_reward_is_that_of_its_parts(small_blip, tmp_path):
    reference, weights, vocabulary = small_blip
    reward = rewards.ImageReward(weights, vocabulary)
    prompts = ["a red boot", "hearts", "a boot on a heart"]
    x = images(3, 40, 48)
    given = reward.tokens(prompts)
    assert given["input_ids"].shape == (3, 35)
    assert given["attention_mask"].sum(1).tolist() == [5, 4, 7]
    assert given["input_ids"][1, :5].tolist() == [2, 8, 9, 3, 0]
    expected = reference(reward.preprocess(x), given["input_ids"], given["attention_mask"])
    assert expected.std() > 0.01
    torch.testing.assert_close(reward(x, prompts), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        rewards.ImageReward(weights, vocabulary, prompt="hearts")(x[1:2]), expected[1:2]
    )
    state = reference.published()
    state.pop("blip.visual_encoder.norm.bias")
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(ValueError, match=r"broken.pt.*1 missing, as 'post_layernorm.bias'"):
        rewards.ImageReward(str(tmp_path / "broken.pt"), vocabulary)


# --- likeness -----------------------------------------------------------------------------------
def test_likeness_by_definition_and_by_torchmetrics(backbone):
    from torchmetrics.functional.image.lpips import _LPIPS

    x, y = images(3, 64, 64), images(4, 64, 64)[3]
    psnr = rewards.Psnr(y)(x)
    torch.testing.assert_close(psnr, -10 * (x - y).square().flatten(1).mean(1).log10())
    torch.testing.assert_close(rewards.Ssim(y)(y[None]), torch.ones(1))
    assert (rewards.Ssim(y)(x) < 0.5).all()

    theirs = _LPIPS(net="squeeze", pnet_rand=True)
    state = torch.load(backbone, weights_only=True)
    for part in theirs.net.slices:
        for number, layer in part.named_children():
            for kind, value in layer.named_parameters():
                value.data = state[f"features.{number}.{kind}"]
    lpips = rewards.Lpips(backbone, y, net="squeeze")
    assert (lpips(x) < -1e-3).all()
    torch.testing.assert_close(
        -lpips(x), theirs(x, y[None].expand(3, -1, -1, -1), normalize=True).flatten()
    )
    torch.testing.assert_close(lpips(y[None]), torch.zeros(1), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"squeezenet.pth: these weights are not of this Module"):
        rewards.Lpips(backbone, y, net="alex")


def test_a_reference_is_a_tensor_a_file_or_each_samples_own(tmp_path):
    from steer import Condition

    y = (images(2) * 255).round() / 255
    pixels = (y[0] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "y.png")
    x = images(5)[3:]
    torch.testing.assert_close(rewards.Psnr(str(tmp_path / "y.png"))(x), rewards.Psnr(y[0])(x))
    own = rewards.Psnr()(x, Condition(reference=y))
    torch.testing.assert_close(own, torch.cat([rewards.Psnr(y[k])(x[k : k + 1]) for k in (0, 1)]))
    with pytest.raises(ValueError, match="Psnr: there is no picture to compare with: set refer"):
        rewards.Psnr()(x)
    with pytest.raises(
        ValueError, match=r"expected samples of the reference's shape \(3, 32, 32\)"
    ):
        rewards.Ssim(y[0])(images(2, 16))
    with pytest.raises(ValueError, match=r"in \[0, 1\], got \(3, 32, 32\) in \[0, 2"):
        rewards.Psnr(2.1 * y[0])
    with pytest.raises(ValueError, match=r"none.png' cannot be read as a picture"):
        rewards.Ssim("none.png")


# --- weights ------------------------------------------------------------------------------------
def test_weights_come_from_the_hubs_cache_and_missing_ones_name_the_command(
    hugging_clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"PickScore_v1/model.safetensors' are not here") as error:
        rewards.PickScore()
    assert "run `hf download yuvalkirstain/PickScore_v1 model.safetensors`" in str(error.value)
    assert "\n" not in str(error.value)
    home = tmp_path / "models--yuvalkirstain--PickScore_v1"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    (home / "snapshots" / "abc").mkdir(parents=True)
    target = home / "snapshots" / "abc" / "model.safetensors"
    target.symlink_to(hugging_clip[1])
    x = images(2)
    torch.testing.assert_close(
        rewards.PickScore(model="tiny-clip")(x, PROMPTS[:2]),
        rewards.PickScore(hugging_clip[1], model="tiny-clip")(x, PROMPTS[:2]),
    )
    with pytest.raises(ValueError, match=r"weights 'none.pt': there is no such file"):
        weight_file("none.pt")


def test_weights_of_another_model_or_damaged_ones_are_refused_on_one_line(
    hugging_clip, tiny_clip, tmp_path
):
    with pytest.raises(ValueError, match=r"is no weight of a transformers.CLIPModel"):
        rewards.PickScore(tiny_clip[1], model="tiny-clip")
    with pytest.raises(ValueError, match=r"these weights are not of this CLIP.*missing.*unknown"):
        rewards.HpsV2(hugging_clip[1], model="tiny-clip")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad.pt cannot be read as weights") as error:
        rewards.HpsV2(str(tmp_path / "bad.pt"), model="tiny-clip")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no model 'tiny-clp': did you mean 'tiny-clip'"):
        rewards.HpsV2(tiny_clip[1], model="tiny-clp")
