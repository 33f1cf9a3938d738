"""The network of a real model: one call of its transformer on our clock, its decoder and texts.

A family is a subclass that states how the library calls its transformer. Libraries run time from 1
(noise) to 0; each family turns it once, in `predict`. Computations inside are in the precision of
the transformer; times are in float32 or better, and so are results.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils.checkpoint import checkpoint

from steer import counting
from steer.adapters.differentiable import attention_for, recomputed
from steer.adapters.library import needed
from steer.adapters.shared_modules import Shared
from steer.adapters.text_lengths import quiet_about_length, tell_of_cuts
from steer.annotations import Count, checked
from steer.conditions import Cond, Condition, cat, everywhere, kind_of, pick, single
from steer.interpolant import Linear, Schedule

__all__ = ["Network"]

Level = Literal["two times", "consistency", "trajectory", "velocity"]
GuidanceKind = Literal["classifier-free", "embedded", "baked in"]
MOST_TEXTS = 4096  # encoded prompts that are kept


class Network(nn.Module, ABC):
    """network(x, s, t, cond): the transformer of one family, for latents x (B, *latent_shape).

    Its result depends on the level: the average velocity u_{s,t} of a family of two times, the
    velocity b_s of one of velocities, whatever t, and the end point X_{s,1} of a consistency model.

    A condition is a `steer.Condition` with the family's `fields`, by the names that the library has
    for them, or a list of texts, which the family's text encoders turn into one, each text once.

    Args:
        transformer: the library's model.
        vae: its decoder; without one nothing can be decoded.
        texts: text encoders and tokenizers by their names in the library's pipeline.
        scheduler: the library's, for the constants it holds.
        guidance: the weight of guidance. Classifier-free guidance costs two evaluations, and is off
            by default; guidance that the transformer embeds has the family's own default.
        negative: what takes the place of no prompt in classifier-free guidance, one entry; the
            empty text by default.
        distilled: whether guidance is baked in, of a model whose own config does not say so.
        max_batch: the most samples in one call of the transformer.
        decode_batch: the most samples in one call of the decoder.
        recompute: gradient checkpointing of the transformer and of the decoder.
        offload: whether text encoders and decoder wait on the CPU while they are not in use.

    Attributes:
        name: of the family.
        transformers: classes of the library that it is made of.
        pipelines: the library's pipelines that run it.
        level: what the transformer predicts.
        kind: how it is guided.
        source: the name or folder that it was loaded from; None for modules.
        part: what the pipelines call the transformer.
        fields: of a condition.
        optional: further fields that a condition may have.
        default_guidance: the weight that the transformer embeds unless told.
        shift: of the library's steps towards noise, for `steer.samplers.shifted`.
        lora_targets: layers that adapters are put on.
        schedulers: of the library, where the class of the transformer does not tell the family.

    Raises:
        ValueError: another transformer, or guidance where it is baked in.
    """

    name: ClassVar[str]
    transformers: ClassVar[tuple[str, ...]]
    pipelines: ClassVar[tuple[str, ...]]
    level: Level
    kind: GuidanceKind = "classifier-free"
    fields: ClassVar[tuple[str, ...]] = ("prompt_embeds",)
    optional: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str] = "transformer"
    default_guidance: float = 1.0
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    schedulers: ClassVar[tuple[str, ...]] = ()
    transformer: Any

    @classmethod
    def suits(cls, transformer: nn.Module, scheduler: Any) -> bool:
        """Whether it is the family of this transformer, run by this scheduler."""
        return not cls.schedulers or type(scheduler).__name__ in cls.schedulers

    @checked
    def __init__(
        self,
        transformer: nn.Module,
        vae: nn.Module | None = None,
        texts: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        guidance: float | None = None,
        negative: Cond = None,
        distilled: bool = False,
        max_batch: Count | None = None,
        decode_batch: Count | None = None,
        recompute: bool = False,
        offload: bool = False,
    ):
        super().__init__()
        found = type(transformer).__name__
        if found not in self.transformers:
            raise ValueError(
                f"{self.name} is made of a {' or '.join(self.transformers)}; got a {found}"
            )
        own: Any = transformer.requires_grad_(False).eval()
        self.transformer = own
        self.shared = Shared(vae=vae, **(texts or {}))
        if offload:
            self.shared.offload()
        self.scheduler = scheduler
        self.source: str | None = None
        self.distilled = distilled
        self.check(transformer)
        self.max_batch = max_batch
        self.decode_batch = decode_batch
        self.recompute = recompute
        if recompute:
            own.enable_gradient_checkpointing(recomputed)
        self.schedule: Schedule = self.path()
        self.weight = self.weight_of(guidance)
        self.negative = single(negative, "negative")
        self.encoded: dict[str, Condition] = {}

    # --- what a family states -------------------------------------------------------------------
    @abstractmethod
    def predict(
        self, x: Float[Tensor, "b *shape"], s: Tensor, t: Tensor, cond: Condition
    ) -> Float[Tensor, "b *shape"]:
        """Calls the transformer once, in its precision, for times s and t (B,) of ours."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Computes the shape of one sample for an image of that size in pixels."""

    @abstractmethod
    def to_decoder(self, latents: Tensor) -> Tensor:
        """Converts samples to what the decoder takes: its scale, shift or statistics, unpacked."""

    def encode(self, texts: Sequence[str]) -> Condition:
        """Encodes prompts as the library's pipeline does."""
        raise ValueError(f"{self.name} encodes no texts here; {self.by_hand}")

    def check(self, transformer: Any) -> None:
        """Raises ValueError for a model of these classes that the family cannot run."""

    def path(self) -> Schedule:
        """Builds the path of the model; that of flow matching by default."""
        return Linear()

    @property
    def shift(self) -> float:
        """The shift of the library's steps towards noise; 1 for none, or for one by image size."""
        config = getattr(self.scheduler, "config", {})
        if config.get("use_dynamic_shifting"):
            return 1.0
        return float(config.get("shift") or config.get("flow_shift") or 1.0)

    @property
    def by_hand(self) -> str:
        """How to give a condition without text encoders, for errors."""
        fields = ", ".join(f"{name}=..." for name in self.fields)
        return f"pass cond=steer.Condition({fields})"

    # --- one evaluation -------------------------------------------------------------------------
    def forward(
        self,
        x: Float[Tensor, "b *shape"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        cond: Cond = None,
    ) -> Float[Tensor, "b *shape"]:
        known = self.condition(cond, x)
        size = self.max_batch or len(x)
        parts = [slice(i, i + size) for i in range(0, len(x), size)]
        with attention_for(x, s, t):
            found = [self.guided(x[p], s[p], t[p], pick(known, p)) for p in parts]
        return found[0] if len(found) == 1 else torch.cat(found)

    def guided(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Evaluates the transformer, under classifier-free guidance where there is some."""
        own = self.in_ours(x, s, t, cond)
        if self.kind != "classifier-free" or self.weight == 1:
            return own
        absent = everywhere(self.absent(), len(x), x.device)
        without = counting.network(self.in_ours(x, s, t, self.condition(absent, x)))
        return torch.lerp(without, own, self.weight)

    def in_ours(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Evaluates the transformer, with a result in float32 or better."""
        found = self.predict(x, s, t, cond)
        return found.to(torch.promote_types(x.dtype, torch.float32))

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer."""
        return self.transformer.dtype

    # --- conditions -----------------------------------------------------------------------------
    def condition(self, cond: Cond, x: Tensor) -> Condition:
        """Encodes texts, none as empty ones; moves a condition to the samples' device.

        A Condition with texts and without the family's fields is encoded by its texts.

        Raises:
            ValueError: another kind of condition, or one without the family's fields.
        """
        if cond is None:
            cond = [""] * len(x)
        if isinstance(cond, Condition) and "texts" in cond.fields and self.lacks(cond):
            cond = cond.texts  # of a file of prompts with further columns, which are the reward's
        if isinstance(cond, list | tuple) and all(isinstance(text, str) for text in cond):
            cond = self.encode_prompts(cond)
        if not isinstance(cond, Condition):
            got = f"a {kind_of(cond).__name__}"
            raise ValueError(f"{self.name} is told texts or a Condition; got {got}: {self.by_hand}")
        if missing := self.lacks(cond):
            raise ValueError(
                f"{self.name} needs {', '.join(missing)} in its Condition of"
                f" {', '.join(cond.fields)}; {self.by_hand}"
            )
        used = [name for name in (*self.fields, *self.optional) if name in cond.fields]
        return Condition(**{name: cond.fields[name] for name in used}).to(x.device, self.dtype)

    def lacks(self, cond: Condition) -> list[str]:
        """Lists the family's fields that a condition does not have."""
        return [name for name in self.fields if name not in cond.fields]

    def absent(self) -> Cond:
        """The condition that stands for no prompt, one entry."""
        return [""] if self.negative is None else self.negative

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Condition:
        """Encodes each prompt once, and keeps it; `texts` is a field of the result.

        Raises:
            ValueError: there are no text encoders.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self.encoded]
        if new and not self.has_texts():
            raise ValueError(
                f"{self.name} was given texts and has no text encoders; load them with it, or"
                f" {self.by_hand}"
            )
        if len(self.encoded) + len(new) > MOST_TEXTS:
            self.encoded.clear()
            new = list(dict.fromkeys(texts))
        if new:
            encoders = [name for name in self.shared.modules if "text_encoder" in name]
            tell_of_cuts(new, self.shared.modules)
            with self.shared.used(encoders, self.device), quiet_about_length():
                self.encoded |= {text: self.encode([text]) for text in new}
        found: Condition = cat([self.encoded[text] for text in texts])
        return Condition(**found.fields, texts=list(texts))

    def has_texts(self) -> bool:
        """Whether there are text encoders."""
        return any("text_encoder" in name for name in self.shared.modules)

    def pipeline(self) -> Any:
        """The library's pipeline around the text encoders, for the way it encodes prompts."""
        known = self.shared.modules
        parts = {name: part for name, part in known.items() if name != "vae"}
        parts |= {self.part: self.transformer, "scheduler": self.scheduler}
        kind = getattr(needed("diffusers"), self.pipeline_name())
        absent = {name: None for name in needed_parts(kind) if name not in parts}
        return kind(**{**absent, **parts})

    def pipeline_name(self) -> str:
        """The pipeline of this model."""
        return self.pipelines[0]

    def rescaled(self, latents: Tensor) -> Tensor:
        """Undoes the scale and shift of the decoder's latents."""
        config = self.shared["vae"].config
        return latents / config.scaling_factor + (config.shift_factor or 0.0)

    @property
    def text_device(self) -> torch.device:
        """Where the text encoders are."""
        encoders = [m for name, m in self.shared.modules.items() if "text_encoder" in name]
        return next(encoders[0].parameters()).device

    # --- decoding -------------------------------------------------------------------------------
    def decode(self, latents: Float[Tensor, "b *shape"]) -> Tensor:
        """Decodes samples to images (B, 3, H, W), or films (B, 3, F, H, W), about [0, 1].

        Values outside stay outside, as a clamp would have no gradient there.

        Raises:
            ValueError: there is no decoder.
        """
        vae = self.shared["vae"]
        if vae is None:
            raise ValueError(f"this {self.name} has no decoder; pass vae=, or load it with one")
        size = self.decode_batch or len(latents)
        parts = [latents[i : i + size] for i in range(0, len(latents), size)]
        images = torch.cat([self.decoded(vae, part) for part in parts])
        dtype = torch.promote_types(latents.dtype, torch.float32)
        return (images.to(dtype) + 1) / 2

    def decoded(self, vae: Any, latents: Tensor) -> Tensor:
        """Calls the decoder, in its precision."""

        def run(latents: Tensor) -> Tensor:
            with self.shared.used(["vae"], latents.device):
                image = vae.decode(self.to_decoder(latents).to(vae.dtype), return_dict=False)[0]
            return image[:, :, 0] if image.ndim == 5 and image.shape[2] == 1 else image

        if self.recompute and latents.requires_grad and not is_functorch_wrapped_tensor(latents):
            return checkpoint(run, latents, use_reentrant=False)
        return run(latents)

    def image_shape(self, height: int, width: int, patch: int) -> tuple[int, int, int]:
        """Computes (channels, rows, columns) of image latents.

        Args:
            height, width: of the image, in pixels.
            patch: side of the blocks of latents that are one token.

        Raises:
            ValueError: sides that the decoder's scale and the patches do not divide.
        """
        scale = self.decoder_scale()
        if height % (scale * patch) or width % (scale * patch) or min(height, width) < 1:
            raise ValueError(
                f"{self.name} makes images whose sides divide by {scale * patch}; got {height} by"
                f" {width}"
            )
        return self.transformer.config.in_channels, height // scale, width // scale

    def decoder_scale(self) -> int:
        """How many pixels of a side are one latent; 8 without a decoder."""
        vae = self.shared["vae"]
        return 8 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)

    # --- guidance -------------------------------------------------------------------------------
    def weight_of(self, guidance: float | None) -> float:
        """Checks a weight of guidance; nan stands for one that is baked in.

        Raises:
            ValueError: guidance asked of a model that has it baked in, or a weight not finite.
        """
        if self.kind == "baked in":
            if guidance is not None:
                raise ValueError(
                    f"{self.name} has its guidance baked in by distillation; got"
                    f" guidance={guidance}: leave it out"
                )
            return math.nan
        if guidance is None:
            return self.default_guidance
        if not math.isfinite(guidance):
            raise ValueError(f"guidance is a finite weight; got {guidance}")
        return float(guidance)

    def train(self, mode: bool = True) -> "Network":
        """Stays in evaluation mode, as what it wraps was trained long ago."""
        return super().train(False)

    def embedded(self, s: Tensor) -> Tensor | None:
        """The weight of guidance that the transformer is told, (B,), or None."""
        if self.kind != "embedded":
            return None
        return torch.full((len(s),), self.weight, dtype=s.dtype, device=s.device)

    def _apply(self, fn: Any, *arguments: Any, **keywords: Any) -> Any:
        self.shared.apply(fn)
        self.encoded.clear()
        return super()._apply(fn, *arguments, **keywords)


def needed_parts(pipeline: type) -> list[str]:
    """Lists the parts that a pipeline cannot be built without."""
    parameters = inspect.signature(pipeline).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def of_time(time: Tensor, like: Tensor) -> Tensor:
    """Reshapes times (B,) to broadcast over x, in float32 or better."""
    return time.reshape(-1, *(1 for _ in like.shape[1:]))
