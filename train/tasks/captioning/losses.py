"""The losses of both stages: cross-entropy, and self-critical sequence training."""

import functools
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float32, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...data.caption_vocabulary import END, CaptionVocabulary
from ...data.vocabulary import PADDING
from ...metrics.cider import TextCider
from ...models.captioner import Captioner, select
from ...models.decoding import Captions, greedy, log_probabilities, sample
from ..settings import CaptionSettings
from .examples import CaptionBatch, ImageBatch

LARGEST_SEED = 1 << 62


def caption_loss(model: nn.Module, batch: CaptionBatch, *, smoothing: float) -> Float32[Tensor, ""]:
    """Return the mean cross-entropy of the words that people wrote, the ends among them."""
    tokens = batch.tokens

    def read(captioner: Captioner, memory: Any) -> Tensor:
        return captioner.logits(select(memory, batch.image_of_caption), tokens[:, :-1])

    logits = model(batch.records, read)
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
    the baseline, and less likely where worse.

    With `scst.dropout` they are drawn in training mode, as in the published code, and the gradient
    is that of the very log-probabilities from which they were drawn. One difference: dropout is
    drawn once for each word and image; the published transformer reads the words before again at
    each word, with other dropout. Without `scst.dropout` they are drawn and scored in evaluation
    mode: the gradient is that of the expected reward of the model that will be used. The greedy
    caption is always that of evaluation mode.
    """

    cider: TextCider  # of the training images, by the positions that batches have
    vocabulary: CaptionVocabulary
    settings: CaptionSettings
    accelerator: Accelerator

    def loss(self, model: nn.Module, batch: ImageBatch) -> Float32[Tensor, ""]:
        """Return the mean over words of minus log-probability times advantage.

        Random numbers come from torch's, which the loop seeds for every update.
        """
        scst, longest = self.settings.scst, self.settings.decoding.max_tokens
        by_greedy = scst.baseline == "greedy"
        seed = int(torch.randint(LARGEST_SEED, ()))
        draw = functools.partial(
            sample,
            samples=scst.samples,
            generator=torch.Generator(batch.features.device).manual_seed(seed),
            max_tokens=longest,
        )
        writer = cast(Captioner, self.accelerator.unwrap_model(model.eval()))
        with torch.no_grad(), self.accelerator.autocast():
            memory = writer.encode(batch.records)
            likeliest = greedy(writer, memory, max_tokens=longest) if by_greedy else None
            drawn = None if scst.dropout else draw(writer, memory)
        if drawn is None:
            learn = functools.partial(draw, gradients=True)
            drawn = cast(Captions, model.train()(batch.records, learn))
        else:
            drawn = _scored(model, batch, drawn)
        images = batch.images.cpu().numpy()
        rewards = self._rewards(drawn, images)
        base = self._rewards(likeliest, images) if likeliest else None
        better = torch.from_numpy(advantages(rewards, base)).to(drawn.tokens.device)
        return policy_loss(drawn, better)

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


def _scored(model: nn.Module, batch: ImageBatch, captions: Captions) -> Captions:
    """Return the captions with log-probabilities of one forward pass, which have gradients."""
    tokens = captions.tokens.flatten(0, 1)

    def read(captioner: Captioner, memory: Any) -> Tensor:
        return captioner.logits(memory, tokens[:, :-1])

    scores = log_probabilities(model(batch.records, read), tokens)
    return Captions(captions.tokens, scores.view_as(captions.log_probabilities))


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
    captions: Captions, advantage: Float64[Tensor, "image caption"]
) -> Float32[Tensor, ""]:
    """Return the mean over words and ends of minus log-probability times advantage."""
    words = (captions.tokens[..., 1:] != PADDING).sum()
    return -(captions.totals * advantage.float()).sum() / words
