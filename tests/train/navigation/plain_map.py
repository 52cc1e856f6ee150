"""What one agent knows of its scan, in plain Python: the truth that maps of batches are held to."""

import heapq
import math

from scans import simulator

from benchmarks.plain_simulator import walk_views
from clipfeat.train.navigation.graphs import Scan


class PlainMap:
    """The map of one agent: dictionaries, and Dijkstra's algorithm for each pair of nodes."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.nodes: list[int] = []  # in the order of first sight
        self.visits: dict[int, int] = {}  # the number of the first visit
        self.ways: dict[int, dict[int, float]] = {}

    def visit(self, viewpoint: int, count: int) -> None:
        """Note what is seen from a viewpoint, at visit number `count`."""
        agent = simulator(self.scan)
        agent.new_episode(viewpoint, 0, 0)
        self.visits.setdefault(viewpoint, count)
        for there in [viewpoint, *(each.viewpoint for each in walk_views(agent))]:
            if there not in self.nodes:
                self.nodes.append(there)
            if there != viewpoint:
                length = math.dist(self.scan.positions[viewpoint], self.scan.positions[there])
                self.ways.setdefault(viewpoint, {})[there] = length
                self.ways.setdefault(there, {})[viewpoint] = length

    def path(self, start: int, goal: int) -> tuple[list[int], float]:
        """Return the shortest path whose inner viewpoints have been visited, and its length."""
        queue: list[tuple[float, tuple[int, ...]]] = [(0.0, (start,))]
        done: set[int] = set()
        while queue:
            length, path = heapq.heappop(queue)
            at = path[-1]
            if at == goal:
                return list(path), length
            if at in done or (at != start and at not in self.visits):
                continue
            done.add(at)
            for there, metres in self.ways[at].items():
                heapq.heappush(queue, (length + metres, (*path, there)))
        raise AssertionError((start, goal))
