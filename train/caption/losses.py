"""What a captioner learns from: captions that people wrote, and its own."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..texts.words import PADDING
from .data.examples import CaptionBatch, ImageBatch
from .data.tokens import END, CaptionVocabulary
from .decoding.captions import Captions, of_tokens
from .decoding.sampling import greedy, sample
from .metrics.texts import TextCider
from .models.captioner import Captioner
from .settings import CaptionSettings

LARGEST_SEED = 1 << 62


def caption_loss(model: nn.Module, batch: CaptionBatch, *, smoothing: float) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy of the words that people wrote, the ends among them."""
    tokens = batch.tokens
    logits = model(
        batch.features, batch.mask, batch.grid_shapes, batch.image_of_caption, tokens[:, :-1]
    )
    return cross_entropy(
        logits.float().transpose(1, 2),
        tokens[:, 1:],
        ignore_index=PADDING,
        label_smoothing=smoothing,
    )


@dataclass(frozen=True)
class SelfCritical:
    """The loss of self-critical sequence training (Rennie et al. 2017, section 3).

    A model's own captions, drawn by chance, become likelier where CIDEr-D finds them better than
    the baseline, and less likely where worse. Captions are drawn and scored without dropout, so
    that the gradient is that of the expected reward of the very model that will be used.
    """

    cider: TextCider  # of the training images, by the positions that batches have
    vocabulary: CaptionVocabulary
    settings: CaptionSettings
    accelerator: Accelerator

    def loss_of(self, model: nn.Module, batch: ImageBatch) -> Float32[Tensor, ""]:
        """Return the mean over words of minus log-probability times advantage.

        Random numbers come from torch's, which the loop seeds for every update.
        """
        model.eval()
        samples, likeliest = self._write(model, batch)
        images = batch.images.cpu().numpy()
        rewards = self._rewards(samples, images)
        base = self._rewards(likeliest, images) if likeliest else None
        better = torch.from_numpy(advantages(rewards, base)).to(samples.tokens.device)
        image_of_caption = torch.arange(len(images), device=better.device)
        tokens = samples.tokens.flatten(0, 1)
        logits = model(  # as a whole, which training on several GPUs wants
            *batch.records,
            image_of_caption.repeat_interleave(self.settings.scst.samples),
            tokens[:, :-1],
        )
        return policy_loss(logits, tokens, better.flatten())

    def _write(self, model: nn.Module, batch: ImageBatch) -> tuple[Captions, Captions | None]:
        """Return captions of each image drawn by chance, and the likeliest, if that is wanted."""
        writer = cast(Captioner, self.accelerator.unwrap_model(model))
        settings, longest = self.settings.scst, self.settings.decoding.max_tokens
        seed = int(torch.randint(LARGEST_SEED, ()))
        generator = torch.Generator(batch.features.device).manual_seed(seed)
        with torch.no_grad(), self.accelerator.autocast():
            memory = writer.encode(*batch.records)
            drawn = sample(
                writer, memory, samples=settings.samples, generator=generator, max_tokens=longest
            )
            if settings.baseline == "mean":
                return drawn, None
            return drawn, greedy(writer, memory, max_tokens=longest)

    def _rewards(
        self, captions: Captions, images: Int[np.ndarray, " image"]
    ) -> Float64[np.ndarray, "image caption"]:
        """Return the CIDEr-D of each caption, in which its end is a word."""
        rows = captions.tokens.flatten(0, 1).tolist()
        each = captions.tokens.shape[1]
        scores = self.cider.scores(
            [self.vocabulary.decode(row) for row in rows],
            images.repeat(each),
            ended=[END in row for row in rows],
        )
        return scores.reshape(-1, each)


def advantages(
    rewards: Float64[np.ndarray, "image sample"], likeliest: Float64[np.ndarray, "image 1"] | None
) -> Float64[np.ndarray, "image sample"]:
    """Return by how much each sample's reward exceeds its baseline.

    That is the reward of the likeliest caption (Rennie et al. 2017) or, without one, the mean of
    the other samples of the image (Luo 2020, "A Better Variant of Self-Critical Sequence
    Training").
    """
    if likeliest is not None:
        return rewards - likeliest
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def policy_loss(
    logits: Float[Tensor, "caption step word"],
    tokens: Int[Tensor, "caption token"],
    advantage: Float[Tensor, " caption"],
) -> Float32[Tensor, ""]:
    """Return the mean over words and ends of minus log-probability times advantage."""
    words = (tokens[:, 1:] != PADDING).sum()
    return -(of_tokens(logits, tokens) * advantage.float()[:, None]).sum() / words
