"""Ranges of a shard for several records: near ones are received with one request."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from .shards import ShardRow

SPAN_BYTES = 1 << 22  # of one request for several records

Item = TypeVar("Item")


class Place(NamedTuple, Generic[Item]):
    """Where an array of a record lies."""

    shard: ShardRow
    offset: int
    length: int
    item: Item  # what it is for

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass
class Span(Generic[Item]):
    """Places of one shard that are received with one request."""

    shard: ShardRow
    first: int  # byte
    end: int
    places: list[Place[Item]]

    @property
    def size(self) -> int:
        return self.end - self.first

    def takes(self, place: Place[Item], gap: int) -> bool:
        """Return whether a place is in the same shard, and near enough."""
        is_near = self.first <= place.offset <= self.end + gap
        is_short = max(self.end, place.end) - self.first <= SPAN_BYTES
        return is_near and is_short and place.shard.path == self.shard.path

    def add(self, place: Place[Item]) -> None:
        """Receive a place with the others."""
        self.places.append(place)
        self.end = max(self.end, place.end)

    def cut(self, content: bytes) -> Iterator[tuple[Item, bytes]]:
        """Yield the bytes of each place, from those of the span."""
        for place in self.places:
            start = place.offset - self.first
            yield place.item, content[start : start + place.length]


def spans(places: Iterable[Place[Item]], gap: int) -> Iterator[Span[Item]]:
    """Yield the requests for some places, in their order.

    A request has at most SPAN_BYTES, unless one place has more. Two places with at most `gap` bytes
    between them share one, if they follow each other here and in the file.
    """
    span: Span[Item] | None = None
    for place in places:
        if span is not None and span.takes(place, gap):
            span.add(place)
            continue
        if span is not None:
            yield span
        span = Span(place.shard, place.offset, place.end, [place])
    if span is not None:
        yield span
