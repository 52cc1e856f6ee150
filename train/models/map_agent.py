"""An agent with a topological map, after DUET (Chen et al. 2022, "Think Global, Act Local").

It reads the instruction, looks at the views of where it stands, and scores all nodes of its map to
which it may go next, so that it can turn back. docs/navigation.md says what differs from DUET.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from ..data.vocabulary import PADDING
from ..normalize import FeatureNorm
from .caption_transformer import EncoderLayer, KeysValues, sinusoids
from .layers import MultiHeadAttention, WordEmbedding
from .mcan import Residual, feed_forward
from .navigation_settings import ANGLES, MapSettings
from .settings import SingleStreamSettings

POSE = 7  # numbers that say where a node is: angles, two lengths, moves
VISITS = 100  # as many have a vector of their own, later ones share the last


class Panorama(NamedTuple):
    """What agents see where they are: the candidates, then the views that lead to none.

    Both are padded, `is_candidate` and `is_seen` say which are there.
    """

    features: Float[Tensor, "episode item dim"]
    angles: Float[Tensor, "episode item 4"]
    is_candidate: Bool[Tensor, "episode item"]
    is_seen: Bool[Tensor, "episode item"]


class Nodes(NamedTuple):
    """What agents know of the nodes of their maps; `poses` and `metres` are of KnownMap."""

    vectors: Float[Tensor, "episode node channel"]
    visited_at: Int64[Tensor, "episode node"]
    poses: Float[Tensor, "episode node 7"]
    metres: Float[Tensor, "episode node node"]  # between each two; inf in padding
    is_node: Bool[Tensor, "episode node"]
    of_candidate: Int64[Tensor, "episode action"]  # the node of each of the first items


class Words(NamedTuple):
    """An instruction as the layers of both encoders read it."""

    by_map: tuple[KeysValues, ...]
    by_view: tuple[KeysValues, ...]
    is_word: Bool[Tensor, "episode 1 1 token"]

    def take(self, rows: Int64[Tensor, " row"]) -> "Words":
        """Return some of the episodes."""
        by_map, by_view = (
            tuple(KeysValues(*(part.index_select(0, rows) for part in layer)) for layer in layers)
            for layers in (self.by_map, self.by_view)
        )
        return Words(by_map, by_view, self.is_word.index_select(0, rows))


class WordReader(nn.Module):
    """A text encoder of the agent's own width, with sines and cosines for places."""

    def __init__(self, settings: MapSettings, *, words: int) -> None:
        super().__init__()
        self.words = WordEmbedding(words, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = _encoder(settings, settings.text_layers)
        self.norm = nn.LayerNorm(settings.hidden)

    def forward(
        self, tokens: Int64[Tensor, "episode token"]
    ) -> Float[Tensor, "episode token channel"]:
        """Return the states of words; meaningless in padding."""
        channels, is_word = self.words.embedding_dim, tokens != PADDING
        signals = sinusoids(0, tokens.shape[1], channels, tokens.device)
        words = self.dropout(self.words(tokens) * channels**0.5 + signals)
        for layer in self.layers:
            words = layer(words, is_word)
        return self.norm(words)


class PieceReader(nn.Module):
    """A pre-trained text encoder: the layers of a BERT, projected to the agent's width.

    Pre-training reads cells behind the pieces; here attention has the pieces alone.
    """

    def __init__(self, settings: MapSettings, *, pieces: int) -> None:
        super().__init__()
        from .single_stream import make_bert  # takes seconds, and few agents have one

        sizes = SingleStreamSettings(
            hidden=settings.text_hidden,
            layers=settings.text_layers,
            heads=settings.text_heads,
            dropout=settings.dropout,
        )
        self.bert = make_bert(sizes, tokens=pieces)
        self.project = nn.Linear(settings.text_hidden, settings.hidden)
        self.norm = nn.LayerNorm(settings.hidden)

    def forward(
        self, tokens: Int64[Tensor, "episode token"]
    ) -> Float[Tensor, "episode token channel"]:
        """Return the states of pieces; meaningless in padding."""
        states, real = self.bert.embeddings(tokens), (tokens != PADDING)[:, None, None]
        for layer in self.bert.encoder.layer:
            states = layer(states, real)
        return self.norm(self.project(states))


class CrossLayer(nn.Module):
    """Attention to words, then among items, then a perceptron; the norms come last, as in LXMERT."""

    def __init__(self, channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.across = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.across_sum = Residual(channels, dropout)
        self.among = MultiHeadAttention(channels, heads=heads, dropout=dropout)
        self.among_sum = Residual(channels, dropout)
        self.feed = feed_forward(channels, dropout)
        self.feed_sum = Residual(channels, dropout)

    def forward(
        self,
        items: Float[Tensor, "episode item channel"],
        words: KeysValues,
        is_word: Bool[Tensor, "episode 1 1 token"],
        seen: Float[Tensor, "episode 1 #item item"],
    ) -> Float[Tensor, "episode item channel"]:
        """Return the items; `seen` is added to the scores of attention among them."""
        items = self.across_sum(items, self.across.gather(items, *words, is_word))
        found = self.among.gather(items, *self.among.project(items), seen)
        items = self.among_sum(items, found)
        return self.feed_sum(items, self.feed(items))


class CrossEncoder(nn.Module):
    """Cross layers over STOP and items that have a place, with a score for each.

    STOP is the first item, with a vector of its own.
    """

    def __init__(self, settings: MapSettings, *, place: int) -> None:
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        self.stop = nn.Parameter(torch.zeros(hidden))
        self.place = nn.Sequential(nn.Linear(place, hidden), nn.LayerNorm(hidden))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            CrossLayer(hidden, heads=settings.heads, dropout=dropout)
            for _ in range(settings.cross_layers)
        )
        self.score = score_head(hidden, hidden)

    def project(self, words: Float[Tensor, "episode token channel"]) -> tuple[KeysValues, ...]:
        """Return the words as each layer reads them."""
        return tuple(KeysValues(*layer.across.project(words)) for layer in self._layers)

    def forward(
        self,
        items: Float[Tensor, "episode item channel"],
        places: Float[Tensor, "episode item+1 place"],
        is_item: Bool[Tensor, "episode item"],
        words: tuple[KeysValues, ...],
        is_word: Bool[Tensor, "episode 1 1 token"],
        bias: Float[Tensor, "episode item+1 item+1"] | None = None,
    ) -> tuple[Float[Tensor, "episode channel"], Float[Tensor, "episode item+1"]]:
        """Return the state of STOP, and the scores of STOP and all items."""
        stop = self.stop.expand(len(items), 1, -1)
        states = self.dropout(torch.cat((stop, items), 1) + self.place(places))
        real = pad(is_item, (1, 0), value=True)[:, None, None]
        added = states.new_zeros(()) if bias is None else bias[:, None].to(states.dtype)
        seen = torch.where(real, added, -torch.inf)
        for layer, of_layer in zip(self._layers, words, strict=True):
            states = layer(states, of_layer, is_word, seen)
        return states[:, 0], self.score(states).squeeze(-1)

    @property
    def _layers(self) -> list[CrossLayer]:
        return [layer for layer in self.layers if isinstance(layer, CrossLayer)]


def score_head(inputs: int, channels: int) -> nn.Sequential:
    """Return the perceptron that gives a number."""
    return nn.Sequential(
        nn.Linear(inputs, channels), nn.ReLU(), nn.LayerNorm(channels), nn.Linear(channels, 1)
    )


class MapAgent(nn.Module):
    """The network: it knows no environment. `norm` normalises features before they come here."""

    def __init__(self, settings: MapSettings, norm: FeatureNorm, *, words: int) -> None:
        """Make a network with random weights; `words` is the number of tokens."""
        super().__init__()
        hidden, dropout = settings.hidden, settings.dropout
        self.norm, self.channels = norm, hidden
        self.dropout = nn.Dropout(dropout)
        self.text = (
            PieceReader(settings, pieces=words)
            if settings.text_hidden
            else WordReader(settings, words=words)
        )

        self.feature_dropout = nn.Dropout(settings.feature_dropout)
        self.image = nn.Sequential(nn.Linear(norm.channels, hidden), nn.LayerNorm(hidden))
        self.angle = nn.Sequential(nn.Linear(ANGLES, hidden), nn.LayerNorm(hidden))
        self.kind = nn.Embedding(2, hidden)  # of a view that leads nowhere, and of a candidate
        self.item_norm = nn.LayerNorm(hidden)
        self.panorama = _encoder(settings, settings.panorama_layers)
        self.panorama_norm = nn.LayerNorm(hidden)

        self.visit = nn.Embedding(VISITS, hidden)
        self.by_map = CrossEncoder(settings, place=POSE)
        self.by_view = CrossEncoder(settings, place=2 * POSE)
        # What a metre adds to the attention between two nodes. DUET adds a bias, too, which softmax
        # cancels.
        self.metre = nn.Parameter(torch.zeros(()))
        self.share = score_head(2 * hidden, hidden)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if isinstance(self.text, WordReader):
            self.text.words.weight.data[PADDING] = 0

    def forward(self, learn: Callable[["MapAgent"], Tensor]) -> Tensor:
        """Return what `learn` computes with the agent: what a group of processes needs."""
        return learn(self)

    def read(self, tokens: Int64[Tensor, "episode token"]) -> Words:
        """Return instructions as `decide` reads them; each has a token that is not padding."""
        words = self.text(tokens)
        by_map, by_view = self.by_map.project(words), self.by_view.project(words)
        return Words(by_map, by_view, (tokens != PADDING)[:, None, None])

    def look(self, panorama: Panorama) -> Float[Tensor, "episode item channel"]:
        """Return the vectors of what agents see; meaningless in padding."""
        items = self.image(self.feature_dropout(panorama.features))
        items = items + self.angle(panorama.angles) + self.kind(panorama.is_candidate.long())
        items = self.dropout(self.item_norm(items))
        for layer in self.panorama:
            items = layer(items, panorama.is_seen)
        return self.panorama_norm(items)

    def decide(
        self,
        words: Words,
        nodes: Nodes,
        items: Float[Tensor, "episode item channel"],
        panorama: Panorama,
    ) -> Float32[Tensor, "episode choice"]:
        """Return the scores of STOP and of all nodes, -inf where an agent may not go.

        `items` are of `look`. An agent may go to nodes that it has not visited. The start is node 0.
        """
        vectors = nodes.vectors + self.visit(nodes.visited_at.clamp(max=VISITS - 1))
        metres = self.metre * nodes.metres.nan_to_num(posinf=0).float()
        map_stop, map_scores = self.by_map(
            vectors,
            torch.cat((stop_pose(nodes.poses), nodes.poses), 1),
            nodes.is_node,
            words.by_map,
            words.is_word,
            pad(metres, (1, 0, 1, 0)),
        )
        places = view_places(nodes.poses, nodes.of_candidate, panorama.is_candidate)
        view_stop, view_scores = self.by_view(
            items, places, panorama.is_seen, words.by_view, words.is_word
        )
        share = self.share(torch.cat((map_stop, view_stop), -1)).float().sigmoid()
        actions = nodes.of_candidate.shape[1]
        return fuse(
            map_scores.float() * share,
            view_scores[:, : 1 + actions].float() * (1 - share),
            nodes.of_candidate,
            panorama.is_candidate[:, :actions],
            nodes.is_node & (nodes.visited_at == 0),
        )


def _encoder(settings: MapSettings, layers: int) -> nn.ModuleList:
    hidden, heads, dropout = settings.hidden, settings.heads, settings.dropout
    return nn.ModuleList(EncoderLayer(hidden, heads=heads, dropout=dropout) for _ in range(layers))


def stop_pose(poses: Float[Tensor, "episode node 7"]) -> Float[Tensor, "episode 1 7"]:
    """Return the pose of STOP: straight ahead, at no distance, as that of the agent's own node."""
    pose = torch.zeros_like(poses[:, :1])
    pose[..., [1, 3]] = 1  # cosines
    return pose


def view_places(
    poses: Float[Tensor, "episode node 7"],
    of_candidate: Int64[Tensor, "episode action"],
    is_candidate: Bool[Tensor, "episode item"],
) -> Float[Tensor, "episode item+1 14"]:
    """Return the places of STOP and of what agents see: the pose of the start, then the own one.

    Only candidates, which are the first items, have one of their own; the others have zeros.
    """
    items, actions = is_candidate.shape[1], of_candidate.shape[1]
    own = poses.gather(1, of_candidate[..., None].expand(-1, -1, POSE))
    own = pad(own, (0, 0, 0, items - actions)) * is_candidate[..., None]
    return torch.cat((poses[:, :1].expand(-1, 1 + items, -1), pad(own, (0, 0, 1, 0))), -1)


def fuse(
    map_scores: Float32[Tensor, "episode choice"],
    view_scores: Float32[Tensor, "episode _"],
    of_candidate: Int64[Tensor, "episode action"],
    is_candidate: Bool[Tensor, "episode action"],
    is_unvisited: Bool[Tensor, "episode node"],
) -> Float32[Tensor, "episode choice"]:
    """Return the scores of STOP and all nodes by both encoders; -inf for nodes that are not unvisited.

    Both inputs have STOP first. What the view says of a candidate counts for its node. All nodes out of
    sight get the sum of what it says of the candidates that have been visited: to go there is to
    turn back (Chen et al. 2022).
    """
    nodes = is_unvisited.shape[1]
    of_node = one_hot(of_candidate, nodes) * is_candidate[..., None]  # (episode, action, node)
    by_view = view_scores[:, 1:] * is_candidate
    leads_on = is_unvisited.gather(1, of_candidate)
    back = (by_view * ~leads_on).sum(1, keepdim=True)
    own = (of_node * by_view[..., None]).sum(1)
    view_of_node = torch.where(of_node.any(1), own, back)
    scores = (map_scores[:, 1:] + view_of_node).masked_fill(~is_unvisited, -torch.inf)
    return torch.cat((map_scores[:, :1] + view_scores[:, :1], scores), 1)
