"""Tiny random models of diffusers' own classes, and its own pipelines run on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

import steer

PROMPTS = 2


@dataclass(frozen=True)
class Tiny:
    """A model, a condition of two prompts, and how the library samples from it.

    Attributes:
        modules: the arguments of `steer.adapters.from_modules`.
        cond: of two prompts.
        size: of an image, in pixels.
        sample: sample(noise, options) -> the library's latents, by its pipeline, in our layout, and
            the times, in our clock, that it went through.
        images: images(latents) -> the library's decoded images, in [0, 1].
        negative: what stands for no prompt in the library's classifier-free guidance.
    """

    modules: dict[str, Any]
    cond: steer.Condition
    size: int
    sample: Callable[..., tuple[Tensor, list[float]]]
    images: Callable[[Tensor], Tensor]
    negative: steer.Condition | None = None

    def flow_map(self, **options: Any) -> Any:
        """The adapter's map."""
        return steer.adapters.from_modules(**self.modules, **options)


def seeded() -> None:
    torch.manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """Weights that are not zero anywhere, so that every input counts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return module.eval()


def kl_decoder(channels: int = 4, **options: Any) -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
        **{"scaling_factor": 1.53, "shift_factor": 0.06, **options},
    ).eval()


def through(scheduler: Any) -> list[float]:
    """The times of ours that a scheduler of flow matching went through."""
    return [1 - float(sigma) for sigma in scheduler.sigmas]


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def postprocessed(decode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The library's decoding, then what its image processors do."""
    processor = diffusers.image_processor.VaeImageProcessor(do_normalize=True)

    @torch.no_grad()
    def images(latents: Tensor) -> Tensor:
        return processor.postprocess(decode(latents), output_type="pt")

    return images


def scaled(vae: Any) -> Callable[[Tensor], Tensor]:
    config = vae.config
    return postprocessed(
        lambda z: vae.decode(z / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    )


def sd3() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
            caption_projection_dim=16, pooled_projection_dim=16, pos_embed_max_size=8,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        )
    )  # fmt: skip
    vae = kl_decoder(use_quant_conv=False, use_post_quant_conv=False)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    cond, other = (
        steer.Condition(
            prompt_embeds=torch.randn(PROMPTS, 5, 32), pooled_prompt_embeds=torch.randn(PROMPTS, 16)
        )
        for _ in range(2)
    )
    none = dict.fromkeys(
        f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
    )

    def sample(noise: Tensor, guidance: float = 1.0, steps: int = 4) -> tuple[Tensor, list[float]]:
        pipeline = quiet(
            diffusers.StableDiffusion3Pipeline(
                transformer=transformer, vae=vae, scheduler=scheduler, **none
            )
        )
        negative = other[[0] * len(noise)]
        found = pipeline(
            **cond.fields,
            negative_prompt_embeds=negative.prompt_embeds,
            negative_pooled_prompt_embeds=negative.pooled_prompt_embeds,
            latents=noise, guidance_scale=guidance, height=16, width=16,
            num_inference_steps=steps, output_type="latent",
        ).images  # fmt: skip
        return found, through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, scaled(vae), negative=other[0])


def flux(guidance_embeds: bool = True) -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
            guidance_embeds=guidance_embeds, axes_dims_rope=(4, 4, 8),
        )
    )  # fmt: skip
    vae = kl_decoder(use_quant_conv=False, use_post_quant_conv=False)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    cond = steer.Condition(
        prompt_embeds=torch.randn(PROMPTS, 5, 32), pooled_prompt_embeds=torch.randn(PROMPTS, 16)
    )
    kind = diffusers.FluxPipeline
    pipeline = quiet(
        kind(
            transformer=transformer, vae=vae, scheduler=scheduler,
            text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        )
    )  # fmt: skip

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        rows, columns = noise.shape[-2:]
        found = pipeline(
            **cond.fields,
            latents=kind._pack_latents(noise, len(noise), noise.shape[1], rows, columns),
            guidance_scale=3.5, height=2 * rows, width=2 * columns,
            num_inference_steps=steps, output_type="latent",
        ).images  # fmt: skip
        return kind._unpack_latents(found, 2 * rows, 2 * columns, 2), through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, scaled(vae))


def normalised_decoder() -> Any:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=16,
    ).eval()  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def denormalised(vae: Any, unpatchify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def decode(z: Tensor) -> Tensor:
        mean = vae.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return vae.decode(unpatchify(z * std + mean), return_dict=False)[0]

    return postprocessed(decode)


def flux2() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.Flux2Transformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False, timestep_guidance_channels=32,
        )
    )  # fmt: skip
    vae = normalised_decoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    cond = steer.Condition(prompt_embeds=torch.randn(PROMPTS, 5, 24))
    kind = diffusers.Flux2KleinPipeline
    pipeline = quiet(
        kind(
            transformer=transformer, vae=vae, scheduler=scheduler,
            text_encoder=None, tokenizer=None, is_distilled=True,
        )
    )  # fmt: skip

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, latents=noise, height=16, width=16,
            num_inference_steps=steps, output_type="latent",
        ).images  # fmt: skip
        mean = vae.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return (kind._patchify_latents(found) - mean) / std, through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler, "distilled": True}
    return Tiny(modules, cond, 16, sample, denormalised(vae, kind._unpatchify_latents))


def flux3() -> Tiny:
    from diffusers.modular_pipelines.flux3 import modular_blocks_flux3_distilled as blocks
    from diffusers.modular_pipelines.flux3.decoders import Flux3DecodeStep

    seeded()
    transformer = shaken(
        diffusers.Flux3Transformer2DModel(
            in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
            axes_dims_rope=(4, 4, 4, 4), timestep_channels=32, flow_map=True,
        )
    )  # fmt: skip
    vae = normalised_decoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.93)
    cond = steer.Condition(
        prompt_embeds=torch.randn(PROMPTS, 5, 32), prompt_mask=torch.ones(PROMPTS, 5).long()
    )
    pipeline = blocks.Flux3DistilledCoreDenoiseStep().init_pipeline()
    pipeline.update_components(transformer=transformer, scheduler=scheduler)

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        rows, columns = noise.shape[-2:]
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, latents=noise, height=16 * rows, width=16 * columns,
            num_inference_steps=steps, output="latents",
        )  # fmt: skip
        return found, through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    unpatchify = Flux3DecodeStep._unpatchify_latents
    return Tiny(modules, cond, 16, sample, denormalised(vae, unpatchify))


def z_image() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
            cap_feat_dim=16, axes_dims=[4, 6, 6], axes_lens=[64, 16, 16],
        )
    )  # fmt: skip
    vae = kl_decoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    prompts = [torch.randn(5, 16), torch.randn(3, 16)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    padded = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    cond = steer.Condition(prompt_embeds=padded, prompt_mask=mask)
    pipeline = quiet(
        diffusers.ZImagePipeline(
            transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None
        )
    )

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=prompts, negative_prompt_embeds=[], latents=noise, guidance_scale=0.0,
            height=16, width=16, num_inference_steps=steps, output_type="latent",
        ).images  # fmt: skip
        times = (1000 - scheduler.timesteps) / 1000  # with its rounding
        return found, [*times.tolist(), 1.0]

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, scaled(vae))


def wan_decoder() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.8, 1.1, 2.0],
        scale_factor_spatial=2, scale_factor_temporal=2,
    ).eval()  # fmt: skip


def film_images(vae: Any) -> Callable[[Tensor], Tensor]:
    def decode(z: Tensor) -> Tensor:
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        return vae.decode(z * std + mean, return_dict=False)[0][:, :, 0]

    return postprocessed(decode)


def wan() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
            out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1,
        )
    )  # fmt: skip
    vae = wan_decoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    cond = steer.Condition(prompt_embeds=torch.randn(PROMPTS, 5, 16))
    pipeline = quiet(
        diffusers.WanPipeline(
            transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None
        )
    )

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, latents=noise, guidance_scale=1.0, height=16,
            width=16, num_frames=1, num_inference_steps=steps, output_type="latent",
        ).frames  # fmt: skip
        return found, through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, film_images(vae))


def anyflow() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.AnyFlowTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
            out_channels=4, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1,
        )
    )  # fmt: skip
    vae = wan_decoder()
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    cond = steer.Condition(prompt_embeds=torch.randn(PROMPTS, 5, 16))
    pipeline = quiet(
        diffusers.AnyFlowPipeline(
            transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None
        )
    )

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, latents=noise, height=16, width=16,
            num_frames=1, num_inference_steps=steps, output_type="latent",
        ).frames  # fmt: skip
        return found, through(scheduler)

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, film_images(vae))


def hunyuan() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
            num_layers=1, num_single_layers=1, num_refiner_layers=1, patch_size=(1, 1),
            guidance_embeds=True, text_embed_dim=16, text_embed_2_dim=12, rope_axes_dim=(8, 8),
            use_meanflow=True,
        )
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32),
        layers_per_block=1, spatial_compression_ratio=2, sample_size=16, scaling_factor=0.75,
    ).eval()  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=4.0)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    second = torch.tensor([[1, 1, 0], [0, 0, 0]])
    cond = steer.Condition(
        prompt_embeds=torch.randn(PROMPTS, 5, 16), prompt_embeds_mask=mask,
        prompt_embeds_2=torch.randn(PROMPTS, 3, 12), prompt_embeds_2_mask=second,
    )  # fmt: skip
    pipeline = quiet(
        diffusers.HunyuanImagePipeline(
            transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None,
            tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        )
    )  # fmt: skip

    def sample(noise: Tensor, steps: int = 4) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, prompt_embeds_mask=cond.prompt_embeds_mask,
            prompt_embeds_2=cond.prompt_embeds_2, prompt_embeds_mask_2=cond.prompt_embeds_2_mask,
            latents=noise, height=16, width=16, num_inference_steps=steps, output_type="latent",
        ).images  # fmt: skip
        return found, through(scheduler)

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z / vae.config.scaling_factor, return_dict=False)[0]

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, postprocessed(decode))


def sana_sprint() -> Tiny:
    seeded()
    transformer = shaken(
        diffusers.SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
            num_layers=1, num_cross_attention_heads=2, cross_attention_head_dim=8,
            cross_attention_dim=16, caption_channels=12, sample_size=8, patch_size=1,
            guidance_embeds=True, qk_norm="rms_norm_across_heads",
        )
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, scaling_factor=0.41,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu",
    ).eval()  # fmt: skip
    scheduler = diffusers.SCMScheduler()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    cond = steer.Condition(prompt_embeds=torch.randn(PROMPTS, 5, 12), prompt_attention_mask=mask)
    pipeline = quiet(
        diffusers.SanaSprintPipeline(
            transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None
        )
    )

    def sample(noise: Tensor, steps: int = 2) -> tuple[Tensor, list[float]]:
        found = pipeline(
            **cond.fields, latents=noise, height=32, width=32, num_inference_steps=steps,
            max_timesteps=math.pi / 2, intermediate_timesteps=1.3 if steps == 2 else None,
            generator=torch.Generator().manual_seed(5), output_type="latent",
            use_resolution_binning=False,
        ).images  # fmt: skip
        return found, [1 - float(theta) / (math.pi / 2) for theta in scheduler.timesteps]

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z / vae.config.scaling_factor, return_dict=False)[0]

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 32, sample, postprocessed(decode))


def unet(**options: Any) -> nn.Module:
    return shaken(
        diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
            layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16,
            attention_head_dim=2, norm_num_groups=4, **options,
        )
    )  # fmt: skip


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def of_diffusion(kind: Any, scheduler: Any, transformer: nn.Module, **asked: Any) -> Tiny:
    vae = kl_decoder(scaling_factor=0.18215, shift_factor=None)
    cond = steer.Condition(prompt_embeds=torch.randn(PROMPTS, 5, 16))
    pipeline = quiet(
        kind(
            unet=transformer, vae=vae, scheduler=scheduler, text_encoder=None, tokenizer=None,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )
    )  # fmt: skip

    def sample(noise: Tensor, steps: int = 3) -> tuple[Tensor, list[float]]:
        found = pipeline(
            prompt_embeds=cond.prompt_embeds, latents=noise, height=16, width=16,
            num_inference_steps=steps, output_type="latent",
            generator=torch.Generator().manual_seed(5), **asked,
        ).images  # fmt: skip
        return found, [1 - (int(i) + 1) / 1000 for i in scheduler.timesteps]

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z / vae.config.scaling_factor, return_dict=False)[0]

    modules = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return Tiny(modules, cond, 16, sample, postprocessed(decode))


def lcm() -> Tiny:
    seeded()
    scheduler = diffusers.LCMScheduler(**BETAS)
    kind = diffusers.LatentConsistencyModelPipeline
    return of_diffusion(kind, scheduler, unet(time_cond_proj_dim=32), guidance_scale=8.5)


def tcd() -> Tiny:
    seeded()
    scheduler = diffusers.TCDScheduler(**BETAS, steps_offset=1)
    kind = diffusers.StableDiffusionPipeline
    return of_diffusion(kind, scheduler, unet(), guidance_scale=1.0, eta=0.0)


def with_texts(folder: Any) -> Any:
    """A Stable Diffusion 3 with tiny text encoders, saved; its pipeline."""
    tiny = sd3()
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    parts = dict(tiny.modules)
    for number in ("", "_2"):
        parts[f"tokenizer{number}"] = transformers.CLIPTokenizer(
            vocab=vocabulary, merges=[], model_max_length=8
        )
        parts[f"text_encoder{number}"] = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                vocab_size=len(tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=8, projection_dim=8,
                bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1,
            )
        ).eval()  # fmt: skip
    pipeline = diffusers.StableDiffusion3Pipeline(**parts, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return pipeline


FAMILIES = {
    "sd3": sd3,
    "flux": flux,
    "flux2": flux2,
    "flux3": flux3,
    "z_image": z_image,
    "wan": wan,
    "anyflow": anyflow,
    "hunyuan": hunyuan,
    "sana_sprint": sana_sprint,
    "lcm": lcm,
    "tcd": tcd,
}
