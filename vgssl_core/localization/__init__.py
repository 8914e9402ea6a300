"""From an image to geo-pose hypotheses: no ROS, no torch."""

from vgssl_core.localization.blank import is_blank
from vgssl_core.localization.calibration import DEFAULT, Calibration, ReliabilityBin
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.examples import Examples, gather_examples
from vgssl_core.localization.features import FEATURES, match_features
from vgssl_core.localization.filter import Estimate, TemporalFilter
from vgssl_core.localization.filter_config import FilterConfig
from vgssl_core.localization.fit import fit_calibration, reliability_of
from vgssl_core.localization.hypotheses import Hypothesis
from vgssl_core.localization.localizer import Localization, Localizer, open_localizer, remembered_bundle
from vgssl_core.localization.motion import Motion
from vgssl_core.localization.odometry_track import OdometryTrack, PlanarPose
from vgssl_core.localization.region import Region
from vgssl_core.localization.sequence import SequenceFilter, sequence_places
from vgssl_core.localization.states import State

__all__ = [
    "DEFAULT",
    "FEATURES",
    "Calibration",
    "Estimate",
    "Examples",
    "FilterConfig",
    "Hypothesis",
    "Localization",
    "Localizer",
    "LocalizerConfig",
    "Motion",
    "OdometryTrack",
    "PlanarPose",
    "Region",
    "ReliabilityBin",
    "SequenceFilter",
    "State",
    "TemporalFilter",
    "fit_calibration",
    "gather_examples",
    "is_blank",
    "match_features",
    "open_localizer",
    "reliability_of",
    "remembered_bundle",
    "sequence_places",
]
