"""Whether a model can read the regions of a store."""

import numpy as np

from ...base.errors import UsageError
from ...base.text import counted
from ...featstore import FeatureStore
from .settings import CaptionerSettings, ModelSettings, MovieMcanSettings, SingleStreamSettings


def require_regions(model: ModelSettings | CaptionerSettings, store: FeatureStore) -> None:
    """Raise UsageError where a store has regions that a model cannot read.

    MoVie needs maps (E-REGIONS-MOVIE), and whatever reads boxes needs the sizes of all images
    (E-REGIONS-SIZE).
    """
    if not store.identity.regions:
        return
    if isinstance(model, MovieMcanSettings):
        raise UsageError(
            f"model movie_mcan reads maps of rows and columns, and {store.location} has regions, "
            "which have none; choose another model, such as mcan",
            code="E-REGIONS-MOVIE",
        )
    always = isinstance(model, SingleStreamSettings)
    if not getattr(model, "positions", always):
        return
    unknown = np.flatnonzero((store.image_sizes(store.ids) <= 0).any(axis=1))
    if len(unknown):
        without = "" if always else ", or pass --set model.positions=false"
        raise UsageError(
            f"{store.location} does not know width and height of {len(unknown):,} of "
            f"{counted(len(store), 'image')}, such as {store.ids[unknown[0]]!r:.100}: the model reads "
            f"boxes as shares of them; import the features with --sizes{without}",
            code="E-REGIONS-SIZE",
        )
