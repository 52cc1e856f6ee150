"""An update of the map agent, and how much of it is spent outside the model.

Called by benchmarks/navigation.py, in its made scans, with the instructions of follower.py. On a CPU the
agent has the size of the preset `demo_map`, on a GPU that of `map`. Half of a batch walks by the
teacher, the other half as an agent that knows nothing yet, which seldom ends before the last action.
What is outside the model is the environment, the maps, and the expert. On a CPU the parts are timed
one by one; on a GPU, where the model runs behind the calls, only the whole is.
"""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.follower import MAX_PERCENT, UPDATES, WORDS, Stopwatch, random_batch
from clipfeat.train.models.map_agent import MapAgent
from clipfeat.train.models.navigation_settings import MapSettings
from clipfeat.train.navigation.environment import Environment, Episodes
from clipfeat.train.navigation.graphs import Scan
from clipfeat.train.normalize import ChannelStatistics, FeatureNorm
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.navigation.data import EpisodeBatch
from clipfeat.train.tasks.navigation.map import rollout_loss
from clipfeat.train.tasks.navigation.settings import NAV_PRESETS, NavigationSettings

PRESETS = {"cpu": "demo_map.toml", "cuda": "map.toml"}


def measure(
    scans: Mapping[str, Scan],
    features: Tensor,
    episodes: Callable[[int, Environment], Episodes],
) -> None:
    """Print the time of an update; `episodes` makes so many in an environment."""
    torch.manual_seed(0)
    device = features.device
    config = NAV_PRESETS / PRESETS[device.type]
    settings = load_settings(NavigationSettings, config=config, assignments=[])
    environment = Environment(scans, features)
    of_batch = episodes(settings.batch_size, environment)
    channels = features.shape[2]
    norm = FeatureNorm(ChannelStatistics(torch.zeros(channels), torch.ones(channels)), blind=False)
    assert isinstance(settings.model, MapSettings)
    model = MapAgent(settings.model, norm, words=WORDS).to(device)
    optimizer = AdamW(model.parameters(), lr=settings.lr)
    batch = EpisodeBatch(*(part.to(device) for part in random_batch(len(of_batch))))
    inside = Stopwatch()
    for name in ("read", "look", "decide"):
        setattr(model, name, inside.watch(getattr(model, name)))

    def learn(loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    def update() -> None:
        loss = rollout_loss(model, environment, of_batch, batch, settings)
        inside.watch(learn)(loss)

    update()
    inside.seconds, start = 0.0, time.perf_counter()
    for _ in range(UPDATES):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - start
    parameters = sum(each.numel() for each in model.parameters())
    print(
        f"map agent of {config.name}, {parameters:,} parameters, {len(of_batch)} walks an update of at "
        f"most {settings.max_actions} actions"
    )
    print(f"  an update           {took / UPDATES:9.3f} s")
    if device.type == "cpu":
        share = 100 * (1 - inside.seconds / took)
        print(f"  outside the model   {share:9.1f} % of it (aim: {MAX_PERCENT})")
