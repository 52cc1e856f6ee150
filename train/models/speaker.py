"""The speaker of EnvDrop (Tan et al. 2019, arXiv 1904.04195; Fried et al. 2018): describes a path.

It reads, for each step of a walk, the candidate that the walk takes and the 36 views there, and
writes an instruction word by word. It knows no environment: `navigation/paths.py` gathers what it
reads.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from .layers import masked_softmax, packed_states
from .navigation_settings import ANGLES, SpeakerSettings


class SoftDot(nn.Module):
    """Soft-dot attention (Luong et al. 2015): a query's sum of items, joined to the query by tanh."""

    def __init__(self, *, query: int, item: int) -> None:
        super().__init__()
        self.score = nn.Linear(query, item, bias=False)
        self.join = nn.Linear(item + query, query, bias=False)

    def forward(
        self,
        queries: Float[Tensor, "row query channel"],
        items: Float[Tensor, "row item dim"],
        is_item: Bool[Tensor, "row item"] | None = None,
    ) -> Float[Tensor, "row query channel"]:
        """Return tanh(W [sum; query]) of each query over the items of its row, or the real ones."""
        scores = self.score(queries) @ items.transpose(1, 2)
        if is_item is None:
            weights = scores.float().softmax(-1)
        else:
            weights = masked_softmax(scores, is_item[:, None])
        gathered = weights.to(items.dtype) @ items
        return self.join(torch.cat([gathered, queries], -1)).tanh()


class Speaker(nn.Module):
    """An LSTM over the steps of a path, attention to their views, an LSTM, and one that writes.

    Differences from the published code: the LSTMs over steps end where the path does, so that the
    reverse one does not begin with the padding of a batch; padding and BEGIN are never written.

    Its methods take paths as `PathViews` of navigation/paths.py has them, images and angles apart.
    `kept`, of environment dropout, multiplies the numbers of all images, and takes the place of
    feature dropout, whose masks are fresh for views and for candidates.
    """

    def __init__(self, settings: SpeakerSettings, norm: FeatureNorm, *, words: int) -> None:
        """Make a model of random weights; `words` is the number of tokens."""
        super().__init__()
        hidden, half = settings.hidden, settings.hidden // 2
        self.norm, self.repeats = norm, settings.angle_repeats
        seen = norm.channels + ANGLES * self.repeats
        self.drop = nn.Dropout(settings.dropout)
        self.drop_features = nn.Dropout(settings.feature_dropout)
        self.steps = nn.LSTM(seen, half, batch_first=True, bidirectional=True)
        self.views = SoftDot(query=hidden, item=seen)
        self.context = nn.LSTM(hidden, half, batch_first=True, bidirectional=True)
        self.words = nn.Embedding(words, settings.word, padding_idx=PADDING)
        self.writer = nn.LSTM(settings.word, hidden, batch_first=True)
        self.attention = SoftDot(query=hidden, item=hidden)
        self.classifier = nn.Linear(hidden, words)

    def encode(
        self,
        chosen: Float[Tensor, "path step dim"],
        chosen_angles: Float[Tensor, "path step 4"],
        views: Float[Tensor, "path step view dim"],
        view_angles: Float[Tensor, "path step view 4"],
        is_step: Bool[Tensor, "path step"],
        *,
        kept: Float[Tensor, " dim"] | None = None,
    ) -> Float[Tensor, "path step hidden"]:
        """Return the contexts of the steps; those after the end of a path are zero."""
        lengths = is_step.sum(1).cpu()
        taken = self._seen(chosen, chosen_angles, kept)
        states = self.drop(_over_steps(self.steps, taken, lengths))
        there = self._seen(views, view_angles, kept)
        found = self.views(states.flatten(0, 1)[:, None], there.flatten(0, 1))
        return self.drop(_over_steps(self.context, self.drop(found.view_as(states)), lengths))

    def forward(
        self,
        chosen: Float[Tensor, "path step dim"],
        chosen_angles: Float[Tensor, "path step 4"],
        views: Float[Tensor, "path step view dim"],
        view_angles: Float[Tensor, "path step view 4"],
        is_step: Bool[Tensor, "path step"],
        tokens: Int64[Tensor, "path token"],
    ) -> Float[Tensor, "path token word"]:
        """Return the logits of the word after each token, given the tokens up to it."""
        contexts = self.encode(chosen, chosen_angles, views, view_angles, is_step)
        logits, _ = self._read(contexts, is_step, tokens, None)
        return logits

    @torch.no_grad()
    def write(
        self,
        chosen: Float[Tensor, "path step dim"],
        chosen_angles: Float[Tensor, "path step 4"],
        views: Float[Tensor, "path step view dim"],
        view_angles: Float[Tensor, "path step view 4"],
        is_step: Bool[Tensor, "path step"],
        *,
        begin: int,
        end: int,
        barred: Sequence[int],
        max_words: int,
        kept: Float[Tensor, " dim"] | None = None,
    ) -> Int64[Tensor, "path token"]:
        """Return the likeliest word, one after the other: words, `end`, then padding.

        Without `end` where a text was cut off at `max_words`, which count it. The tokens `barred`,
        `begin` and padding are never written. The model's mode is left as it is.
        """
        contexts = self.encode(chosen, chosen_angles, views, view_angles, is_step, kept=kept)
        never = torch.tensor([PADDING, begin, *barred], device=contexts.device)
        last = torch.full((len(contexts), 1), begin, device=contexts.device)
        ended = torch.zeros_like(last, dtype=torch.bool)
        written, state = [], None
        while len(written) < max_words and not ended.all():
            logits, state = self._read(contexts, is_step, last, state)
            scores = logits[:, 0].index_fill(1, never, -torch.inf)
            last = scores.argmax(-1, keepdim=True).masked_fill(ended, PADDING)
            written.append(last)
            ended |= last == end
        return torch.cat(written, 1)

    def _seen(
        self,
        images: Float[Tensor, "*place dim"],
        angles: Float[Tensor, "*place 4"],
        kept: Float[Tensor, " dim"] | None,
    ) -> Float[Tensor, "*place seen"]:
        """Return images after dropout with their angles; zeros, as of STOP, stay zeros."""
        dropped = self.drop_features(images) if kept is None else images * kept
        tiled = angles.repeat(*(1,) * (angles.dim() - 1), self.repeats)
        return torch.cat([dropped, tiled], -1)

    def _read(
        self,
        contexts: Float[Tensor, "path step hidden"],
        is_step: Bool[Tensor, "path step"],
        tokens: Int64[Tensor, "path token"],
        state: tuple[Tensor, Tensor] | None,
    ) -> tuple[Float[Tensor, "path token word"], tuple[Tensor, Tensor]]:
        with torch.autocast("cpu", enabled=False):  # as in `layers.WordStates`
            hidden, after = self.writer(self.drop(self.words(tokens)), state)
        joined = self.attention(self.drop(hidden), contexts, is_step)
        return self.classifier(self.drop(joined)), after


def _over_steps(
    lstm: nn.LSTM, steps: Float[Tensor, "path step dim"], lengths: Int64[Tensor, " path"]
) -> Float[Tensor, "path step hidden"]:
    """Return the states of a bidirectional LSTM within the lengths, and zeros after them."""
    with torch.autocast("cpu", enabled=False):
        states, _ = packed_states(lstm, steps.float(), lengths)
    return states
