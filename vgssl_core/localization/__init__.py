"""From an image to geo-pose hypotheses: no ROS, no torch."""

from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.hypotheses import Hypothesis
from vgssl_core.localization.localizer import Localization, Localizer, open_localizer, remembered_bundle

__all__ = ["Hypothesis", "Localization", "Localizer", "LocalizerConfig", "open_localizer", "remembered_bundle"]
