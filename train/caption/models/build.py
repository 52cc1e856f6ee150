"""The captioner that the settings name."""

from ...grids.normalize import FeatureNorm
from .captioner import Captioner
from .settings import CaptionerSettings, TransformerSettings, UpDnSettings
from .transformer import Transformer
from .updn import UpDn


def build_captioner(settings: CaptionerSettings, norm: FeatureNorm, *, words: int) -> Captioner:
    """Return a new captioner; `words` is the number of tokens that there are."""
    match settings:
        case TransformerSettings():
            return Transformer(settings, norm, words=words)
        case UpDnSettings():
            return UpDn(settings, norm, words=words)
