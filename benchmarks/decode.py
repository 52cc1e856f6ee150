"""Captions a second by beam search, with a cache of keys and values and without.

make bench-decode BENCH="--device cuda --repeats 5"

The transformer at the sizes of its defaults, random weights, 14x14x2048 grids, 9,487 words, 5 beams,
20 words a caption. Without the cache every step reads the whole caption again. Both take turns, so
that what else the machine does meets both; the encoder's time, which both need, stands beside.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipfeat.train.data.caption_vocabulary import END, SPECIAL_TOKENS
from clipfeat.train.models.caption_transformer import Memory, TransformerCaptioner
from clipfeat.train.models.captioner import Captioner, select
from clipfeat.train.models.decoding import beam_search
from clipfeat.train.models.settings import TransformerCaptionerSettings
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.records import Records

DIM, ROWS, COLS, WORDS, BEAMS, LENGTH = 2048, 14, 14, 9487, 5, 20


class Prefix(NamedTuple):
    """A state that keeps nothing but the words."""

    tokens: Tensor


class Recomputing(Captioner):
    """A captioner without its cache: each step reads the caption from its beginning."""

    def __init__(self, model: TransformerCaptioner) -> None:
        super().__init__()
        self._model = model

    def encode(self, records: Records) -> Memory:
        return self._model.encode(records)

    def logits(self, memory: Memory, tokens: Tensor) -> Tensor:
        return self._model.logits(memory, tokens)

    def attention(self, memory: Memory, tokens: Tensor) -> Tensor:
        return self._model.attention(memory, tokens)

    def start(self, memory: Memory) -> Prefix:
        return Prefix(memory.mask.new_zeros(len(memory.mask), 0, dtype=torch.int64))

    def step(self, memory: Memory, state: Prefix, last: Tensor) -> tuple[Tensor, Prefix]:
        tokens = torch.cat((state.tokens, last[:, None]), dim=1)
        images = len(memory.mask)
        rows = torch.arange(images, device=last.device).repeat_interleave(len(last) // images)
        nothing = select(self._model.start(memory), rows)
        words, _, _ = self._model.read(memory, nothing, tokens)
        return self._model.classifier(words[:, -1]), Prefix(tokens)


def make_model(device: torch.device) -> TransformerCaptioner:
    """Return a model of random weights that never ends a caption."""
    norm = FeatureNorm(ChannelStatistics(torch.zeros(DIM), torch.ones(DIM)), blind=False)
    torch.manual_seed(0)
    model = (
        TransformerCaptioner(TransformerCaptionerSettings(), norm, words=SPECIAL_TOKENS + WORDS)
        .to(device)
        .eval()
    )
    model.classifier.bias.data[END] = -1e4
    return model


def seconds(work: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Return how long some work takes, and what comes of it."""
    started = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    device, images = torch.device(arguments.device), arguments.images
    model = make_model(device)
    random = torch.Generator().manual_seed(0)
    features = torch.randn(images, ROWS * COLS, DIM, generator=random).clamp(min=0).to(device)
    mask = torch.ones(images, ROWS * COLS, dtype=torch.bool, device=device)
    shapes = torch.tensor([[ROWS, COLS]] * images, device=device)

    records = Records(features, mask, shapes)
    memory = model.encode(records)
    encoding, _ = seconds(lambda: model.encode(records).keys, device)

    def decode(model: Captioner) -> Tensor:
        return beam_search(model, memory, beams=BEAMS, max_tokens=LENGTH).tokens

    times = []
    for _ in range(arguments.repeats):
        (with_cache, first), (without, second) = (
            seconds(lambda chosen=chosen: decode(chosen), device)
            for chosen in (model, Recomputing(model))
        )
        assert first.shape == (images, BEAMS, 1 + LENGTH)
        alike = (first == second).all(dim=2).float().mean().item()
        times.append((with_cache, without))
        print(f"with {with_cache:.2f} s, without {without:.2f} s, captions alike {alike:.0%}")
    with_cache, without = np.median(times, axis=0)
    print("\n| | s | captions/s | with the encoder |")
    print("|---|---|---|---|")
    print(f"| encoder | {encoding:.2f} | {images / encoding:.1f} | |")
    for name, took in (("cache", with_cache), ("no cache", without)):
        whole = images / (took + encoding)
        print(f"| {name} | {took:.2f} | {images / took:.1f} | {whole:.1f} |")
    print(f"\ndecoding is {without / with_cache:.1f} times as fast with the cache")


if __name__ == "__main__":
    main()
