"""EnvDrop's follower (Tan et al. 2019, "Learning to Navigate Unseen Environments"), with its critic.

It reads an instruction once, and then chooses an action at each step from what it sees. It knows no
environment. The equations are those of its published code as CLIP-ViL runs it; the layers that the
code makes and never uses are left out.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from .layers import packed_states
from .navigation_settings import ANGLES, EnvDropSettings


class Memory(NamedTuple):
    """What a follower has read."""

    words: Float[Tensor, "episode token hidden"]
    is_word: Bool[Tensor, "episode token"]

    def take(self, rows: Int64[Tensor, " row"]) -> "Memory":
        """Return some of the episodes."""
        return Memory(*(part.index_select(0, rows) for part in self))


class FollowerState(NamedTuple):
    """What a follower remembers of its walk: the attentional state, which is fed back, and the cell."""

    tilde: Float[Tensor, "episode hidden"]
    cell: Float[Tensor, "episode hidden"]

    def take(self, rows: Int64[Tensor, " row"]) -> "FollowerState":
        """Return some of the episodes."""
        return FollowerState(*(part.index_select(0, rows) for part in self))


class Step(NamedTuple):
    """What a follower makes of a step."""

    logits: Float[Tensor, "episode action"]  # -inf for what is not an action
    value: Float[Tensor, " episode"]  # the critic's guess of the rewards to come
    state: FollowerState


class Follower(nn.Module):
    """EnvDrop's encoder, decoder and critic."""

    def __init__(self, settings: EnvDropSettings, norm: FeatureNorm, *, words: int):
        """Make a model of random weights; `words` is the number of tokens."""
        super().__init__()
        self.norm, self.pools_padding = norm, settings.pool_padding
        hidden = settings.hidden
        self.repeats = settings.angle_repeats
        self.drop = nn.Dropout(settings.dropout)
        self.drop_features = nn.Dropout(settings.feature_dropout)
        self.project = nn.Identity()
        if settings.features:
            self.project = nn.Linear(norm.channels, settings.features, bias=False)
        self.image_channels = settings.features or norm.channels
        seen = self.image_channels + ANGLES * self.repeats
        self.embedding = nn.Embedding(words, settings.word, padding_idx=PADDING)
        self.reader = nn.LSTM(settings.word, hidden // 2, batch_first=True, bidirectional=True)
        self.first = nn.Linear(hidden, hidden)
        self.direction = nn.Linear(ANGLES * self.repeats, settings.action)
        self.look = nn.Linear(hidden, seen, bias=False)
        self.decoder = nn.LSTMCell(settings.action + seen, hidden)
        self.read = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.choose = nn.Linear(hidden, seen, bias=False)
        self.critic = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(hidden, 1)
        )

    def forward(self, use: Callable[["Follower"], Any]) -> Any:
        """Return `use(self)`: a rollout, for which a group of processes must call the model once."""
        return use(self)

    def encode(
        self, tokens: Int64[Tensor, "episode token"], lengths: Int64[Tensor, " episode"]
    ) -> tuple[Memory, FollowerState]:
        """Read instructions; return their words and the state that a walk begins with.

        The attentional state is tanh(W max_t h_t + b). As published the maximum runs over padding too,
        whose h is 0, so that the state of a text depends on the others of its batch; `pool_padding`
        does that.
        """
        words = self.drop(self.embedding(tokens))
        read = read_packed if words.is_cuda else read_word_by_word
        states, cell = read(self.reader, words, lengths)
        is_word = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        pooled = states
        if not self.pools_padding:
            pooled = states.masked_fill(~is_word[..., None], -math.inf)
        tilde = self.first(pooled.amax(1)).tanh()
        return Memory(self.drop(states), is_word), FollowerState(tilde, cell)

    def step(
        self,
        memory: Memory,
        state: FollowerState,
        views: Float[Tensor, "episode view dim"],
        view_angles: Float[Tensor, "episode view 4"],
        candidates: Float[Tensor, "episode action dim"],
        candidate_angles: Float[Tensor, "episode action 4"],
        is_action: Bool[Tensor, "episode action"],
        direction: Float[Tensor, "episode 4"],
        *,
        kept: Float[Tensor, " dim"] | None = None,
    ) -> Step:
        """Return what agents do that see this (see `Observation` of the environment).

        `kept`, of environment dropout, multiplies the numbers of all views, and takes the place of
        feature dropout, whose masks are fresh for views and for candidates.
        """
        views, candidates = self._images(views, kept), self._images(candidates, kept)
        action = self.drop(self.direction(self._tiled(direction)).tanh())
        asked = self.look(self.drop(state.tilde))
        weights = self._matches(asked, views, view_angles).softmax(1)[:, None]
        seen = torch.cat([weights @ views, self._tiled(weights @ view_angles)], 2)[:, 0]
        hidden, cell = self.decoder(torch.cat([action, seen], 1), (state.tilde, state.cell))
        dropped = self.drop(hidden)
        scores = (memory.words @ self.read(dropped)[..., None])[..., 0]
        weights = scores.masked_fill(~memory.is_word, -math.inf).softmax(1)[:, None]
        told = (weights @ memory.words)[:, 0]
        tilde = self.combine(torch.cat([told, dropped], 1)).tanh()
        wanted = self.choose(self.drop(tilde))
        logits = self._matches(wanted, candidates, candidate_angles)
        return Step(
            logits.masked_fill(~is_action, -math.inf),
            self.critic(hidden)[:, 0],
            FollowerState(tilde, cell),
        )

    def _images(
        self, images: Float[Tensor, "episode place dim"], kept: Float[Tensor, " dim"] | None
    ) -> Float[Tensor, "episode place channel"]:
        """Return the numbers of views after dropout; zeros, as of STOP, stay zeros."""
        dropped = self.drop_features(images) if kept is None else images * kept
        return self.project(dropped)

    def _tiled(self, angles: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch wide"]:
        return angles.repeat(*(1,) * (angles.dim() - 1), self.repeats)

    def _matches(
        self,
        query: Float[Tensor, "episode seen"],
        images: Float[Tensor, "episode place channel"],
        angles: Float[Tensor, "episode place 4"],
    ) -> Float[Tensor, "episode place"]:
        """Return the dot products of a query with images and their repeated angles.

        The repeats are summed in the query: they need not be made, for 36 views at each step.
        """
        of_image, of_angle = query.split([self.image_channels, ANGLES * self.repeats], 1)
        of_angle = of_angle.unflatten(1, (self.repeats, ANGLES)).sum(1)
        return (images @ of_image[..., None] + angles @ of_angle[..., None])[..., 0]


def read_packed(
    lstm: nn.LSTM,
    words: Float[Tensor, "episode token channel"],
    lengths: Int64[Tensor, " episode"],
) -> tuple[Float[Tensor, "episode token hidden"], Float[Tensor, "episode hidden"]]:
    """Return the states of a bidirectional LSTM, 0 in padding, and its last cells: backward, forward.

    By cuDNN on a GPU: a call for all words.
    """
    states, cells = packed_states(lstm, words, lengths)
    return states, torch.cat([cells[1], cells[0]], 1)


def read_word_by_word(
    lstm: nn.LSTM,
    words: Float[Tensor, "episode token channel"],
    lengths: Int64[Tensor, " episode"],
) -> tuple[Float[Tensor, "episode token hidden"], Float[Tensor, "episode hidden"]]:
    """Return what `read_packed` does; faster on a CPU.

    There the gradient of a packed LSTM takes time by the square of the length: torch adds a tensor of
    the size of all words for each word (2.15).
    """
    order = lengths.argsort(descending=True, stable=True)
    longest = words.shape[1]
    reading = (lengths[:, None] > torch.arange(longest)).sum(0).tolist()  # texts at each word
    inputs = words[order].unbind(1)
    states: list[Tensor] = []
    cells: list[Tensor] = []
    weights = dict(lstm.named_parameters())
    for end, places in (("", range(longest)), ("_reverse", reversed(range(longest)))):
        names = (f"{name}_l0{end}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        of_direction = [weights[name] for name in names]
        state = cell = words.new_zeros(len(words), lstm.hidden_size)
        found: dict[int, Tensor] = {}
        for place in places:
            n = reading[place]
            new_state, new_cell = torch.lstm_cell(
                inputs[place][:n], (state[:n], cell[:n]), *of_direction
            )
            state, cell = torch.cat([new_state, state[n:]]), torch.cat([new_cell, cell[n:]])
            found[place] = functional.pad(new_state, (0, 0, 0, len(words) - n))
        states.append(torch.stack([found[place] for place in range(longest)], 1))
        cells.append(cell)
    back = order.argsort()
    return torch.cat(states, 2)[back], torch.cat(cells[::-1], 1)[back]
