"""An update of the follower in the paper's size, and how much of it is spent outside the model.

Called by benchmarks/navigation.py, in its made scans. Instructions are random words of R2R's mean length.
A batch of 128 is two rollouts of 64, as published: teacher forcing, and sampling by a follower that knows
nothing yet, which are the longest walks of a training. What is outside the model is the environment
(views, moves, teacher), rewards and distances. On a CPU the parts are timed one by one; on a GPU, where
the model runs behind the calls, only the whole is.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import RMSprop

from clipfeat.train.models.follower import Follower
from clipfeat.train.models.navigation_settings import EnvDropSettings
from clipfeat.train.navigation.environment import Environment, Episodes
from clipfeat.train.navigation.graphs import Scan
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.tasks.navigation import rewards
from clipfeat.train.tasks.navigation.data import EpisodeBatch
from clipfeat.train.tasks.navigation.rollout import rollout_loss
from clipfeat.train.tasks.navigation.settings import NavigationSettings

WORDS, TOKENS = 992, (12, 60)  # R2R's vocabulary, and lengths whose mean is near its 31 tokens
UPDATES = 5
MAX_PERCENT = 10  # outside the model: the aim


class Stopwatch:
    """Adds up the time of calls, those inside another counted once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def watch(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose time is added."""

        def timed(*args: Any, **options: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


def random_batch(size: int) -> EpisodeBatch:
    """Return instructions of random words."""
    lengths = torch.randint(*TOKENS, (size,))
    tokens = torch.randint(3, WORDS - 1, (size, int(lengths.max())))
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    return EpisodeBatch(torch.arange(size), tokens, lengths)


def measure(
    scans: Mapping[str, Scan], features: Tensor, episodes: Callable[[Environment], Episodes]
) -> None:
    """Print the time of an update, of the batch of episodes that an environment is given."""
    torch.manual_seed(0)
    device = features.device
    environment = Environment(scans, features)
    of_batch = episodes(environment)
    settings = NavigationSettings()
    channels = features.shape[2]
    norm = FeatureNorm(ChannelStatistics(torch.zeros(channels), torch.ones(channels)), blind=False)
    model = Follower(EnvDropSettings(), norm, words=WORDS).to(device)
    optimizer = RMSprop(model.parameters(), lr=settings.lr)
    batch = EpisodeBatch(*(part.to(device) for part in random_batch(len(of_batch))))
    outside = Stopwatch()
    for name in ("observe", "step", "shortest_actions", "distances"):
        setattr(environment, name, outside.watch(getattr(environment, name)))
    reward = rewards.DistanceReward
    reward.of, reward.take = outside.watch(reward.of), outside.watch(reward.take)

    def update() -> None:
        loss = rollout_loss(
            model, environment, of_batch, batch, settings, teacher_weight=settings.teacher_weight
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    update()
    outside.seconds, start, busy = 0.0, time.perf_counter(), time.process_time()
    for _ in range(UPDATES):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    parameters = sum(each.numel() for each in model.parameters())
    print(f"follower, {parameters:,} parameters, {len(of_batch)} walks an update")
    print(
        f"  an update           {took / UPDATES:9.3f} s, {busy / UPDATES:.3f} s of processor time"
    )
    if device.type == "cpu":
        share = 100 * outside.seconds / took
        print(f"  outside the model   {share:9.1f} % of it (aim: {MAX_PERCENT})")
