"""From an image to geo-pose hypotheses: no ROS, no torch."""

from vgssl_core.localization.blank import is_blank
from vgssl_core.localization.calibration import DEFAULT, Calibration, ReliabilityBin
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.examples import Examples, gather_examples
from vgssl_core.localization.features import FEATURES, match_features
from vgssl_core.localization.fit import fit_calibration, reliability_of
from vgssl_core.localization.hypotheses import Hypothesis
from vgssl_core.localization.localizer import Localization, Localizer, open_localizer, remembered_bundle
from vgssl_core.localization.region import Region

__all__ = [
    "DEFAULT",
    "FEATURES",
    "Calibration",
    "Examples",
    "Hypothesis",
    "Localization",
    "Localizer",
    "LocalizerConfig",
    "Region",
    "ReliabilityBin",
    "fit_calibration",
    "gather_examples",
    "is_blank",
    "match_features",
    "open_localizer",
    "reliability_of",
    "remembered_bundle",
]
