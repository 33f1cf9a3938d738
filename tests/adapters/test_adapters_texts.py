"""Prompts are encoded as the library's pipelines do, by tiny text encoders of its own classes."""

import warnings

import diffusers
import pytest
import tokenizers
import torch
import transformers
from tiny import FAMILIES

WORDS = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "on", "the", "roof", "user", "assistant"]
TEXTS = ["a cat", "a dog on the roof", "a cat"]
CHAT = "{% for m in messages %}user {{ m.content }} {% endfor %}assistant"


def words(length: int = 16):
    """A tokenizer of whole words, with a template of chats."""
    model = tokenizers.models.WordLevel({word: k for k, word in enumerate(WORDS)}, "<unk>")
    inside = tokenizers.Tokenizer(model)
    inside.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inside, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_max_length=length, chat_template=CHAT,
    )  # fmt: skip


def t5(width: int, kind=transformers.T5EncoderModel, config=transformers.T5Config):
    return kind(
        config(
            vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            is_encoder_decoder=False,
        )
    ).eval()  # fmt: skip


def umt5(width: int):
    return t5(width, transformers.UMT5EncoderModel, transformers.UMT5Config)


def clip(width: int):
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16, eos_token_id=1,
        )
    ).eval()  # fmt: skip


def gemma(width: int):
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    ).eval()  # fmt: skip


def qwen(width: int, layers: int):
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=len(WORDS), hidden_size=width, intermediate_size=16,
            num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    ).eval()  # fmt: skip


def flux_texts():
    torch.manual_seed(0)
    return {
        "text_encoder": clip(16), "tokenizer": words(),
        "text_encoder_2": t5(32), "tokenizer_2": words(),
    }  # fmt: skip


PARTS = {
    "flux": flux_texts,
    "flux2": lambda: {"text_encoder": qwen(8, 28), "tokenizer": words(512)},
    "z_image": lambda: {"text_encoder": qwen(16, 2), "tokenizer": words(512)},
    "wan": lambda: {"text_encoder": umt5(16), "tokenizer": words(512)},
    "anyflow": lambda: {"text_encoder": umt5(16), "tokenizer": words(512)},
    "sana_sprint": lambda: {"text_encoder": gemma(12), "tokenizer": words(512)},
    "lcm": lambda: {"text_encoder": clip(16), "tokenizer": words()},
    "tcd": lambda: {"text_encoder": clip(16), "tokenizer": words()},
}
KINDS = {
    "flux": diffusers.FluxPipeline,
    "flux2": diffusers.Flux2KleinPipeline,
    "z_image": diffusers.ZImagePipeline,
    "wan": diffusers.WanPipeline,
    "anyflow": diffusers.AnyFlowPipeline,
    "sana_sprint": diffusers.SanaSprintPipeline,
    "lcm": diffusers.LatentConsistencyModelPipeline,
    "tcd": diffusers.StableDiffusionPipeline,
}


def images_by_the_library(name: str, tiny, parts, noise):
    """The library's own samples, from texts."""
    modules = {k: v for k, v in tiny.modules.items() if k != "distilled"}
    if name in ("lcm", "tcd"):
        modules["unet"] = modules.pop("transformer")
        modules |= {"safety_checker": None, "feature_extractor": None}
        modules["requires_safety_checker"] = False
    pipeline = KINDS[name](**modules, **parts)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": tiny.size, "width": tiny.size, "output_type": "latent"}
    guidance = {"flux": 3.5, "z_image": 0.0, "sana_sprint": 4.5, "lcm": 8.5}.get(name, 1.0)
    more = {
        "wan": {"num_frames": 1},
        "anyflow": {"num_frames": 1},
        "sana_sprint": {"use_resolution_binning": False, "intermediate_timesteps": None},
    }.get(name, {})
    if name == "flux":
        rows, columns = noise.shape[-2:]
        noise = pipeline._pack_latents(noise, len(noise), noise.shape[1], rows, columns)
    found = pipeline(
        prompt=TEXTS[:2],
        latents=noise,
        guidance_scale=guidance,
        num_inference_steps=1,
        **size,
        **more,
    )[0]
    if name == "flux":
        return pipeline._unpack_latents(found, tiny.size, tiny.size, 2), pipeline.scheduler
    return found, pipeline.scheduler


@pytest.mark.parametrize("name", PARTS)
def test_one_step_from_texts_is_that_of_the_library(name):
    tiny = FAMILIES[name]()
    torch.manual_seed(0)
    parts = PARTS[name]()
    flow_map = tiny.flow_map(**parts)
    shape = flow_map.latent_shape(tiny.size, tiny.size)
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    theirs, _ = images_by_the_library(name, tiny, parts, noise)
    end = 1 - 1 / 1000 if name == "tcd" else 1.0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = flow_map(noise, 0.0, end, TEXTS[:2])
        other = flow_map(noise, 0.0, end, TEXTS[1:])
    if name == "flux2":  # whose pipeline returns what the decoder takes
        ours = flow_map.network.to_decoder(ours)
        other = flow_map.network.to_decoder(other)
    # SANA-Sprint's pipeline begins at 1.57080, a little beyond pi / 2
    tolerance = 3e-5 if name == "sana_sprint" else 1e-5
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    assert (other[0] - ours[0]).abs().max() > 1e-4  # the prompt counts
    cond = flow_map.encode_prompts(TEXTS)
    assert (cond.texts, len(flow_map.network.encoded)) == (TEXTS, 2)


def test_a_prompt_that_is_too_long_is_cut_in_one_line(caplog):
    """The line names the encoder, its limit and the length; the library's own are kept away."""
    tiny = FAMILIES["flux"]()
    torch.manual_seed(0)
    flow_map = tiny.flow_map(**PARTS["flux"]())
    long = "a cat " * 12
    with pytest.warns(UserWarning, match="reads 16 tokens") as told:
        flow_map.encode_prompts([long, "a dog"])
    lines = [str(one.message) for one in told if "tokens" in str(one.message)]
    assert all(f"'{long[:40]}...' has 24: the rest is cut off" in line for line in lines)
    assert {line.split()[0] for line in lines} == {"text_encoder", "text_encoder_2"}
    assert "indexing errors" not in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow_map.encode_prompts(["a dog", "a cat"])
