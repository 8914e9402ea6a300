"""Features of a match list → probability that the position is right; it belongs to a map, a model and a precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from vgssl_core.errors import MapError
from vgssl_core.localization.config import LocalizerConfig
from vgssl_core.localization.features import FEATURES

FORMAT = 1
_MOST_BINS = 1000
_REMEDY = "Calibrate again with `vgssl calibrate`."
#: Settings of the localizer that change what the features mean.
SETTINGS = ("k", "cluster_radius_m", "temperature")


@dataclass(frozen=True)
class ReliabilityBin:
    """Examples of similar probability: where it is calibrated, `predicted` and `right` are about equal.

    Attributes:
        predicted: Mean probability.
        right: Share that was right.
        count: Number of examples.
    """

    predicted: float
    right: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """A logistic model of P(position within ``radius_m`` of the truth), and what was measured with it.

    logit P = intercept + Σ coefficient · feature. Every feature grows with trust and no coefficient is negative, so
    that a list of matches which is worse in every respect than all that were seen is trusted less than they.

    Attributes:
        is_default: Whether it is the built-in one, which was measured on other maps and models than this one.
        model_id: Of the network; None for the default.
        precision: That the network was computed in; None for the default.
        radius_m: Within it a position counts as right.
        threshold: A hypothesis of at least this probability is accepted.
        settings: `SETTINGS` of the localizer under which it was measured.
        intercept: See above.
        coefficients: (F,) of the `FEATURES`, none negative.
        position_scale: Factor of the horizontal variances (m²) that makes the errors of right fixes fit them.
        heading_scale: The same of the heading's variance (rad²).
        frames: Examples that it was fitted to.
        unknown_frames: Examples of places that the map does not know, made by taking the place out of the map.
        reliability: Curve of predictions for examples that the fit had not seen, ascending.
        source: What it was measured on, for people.
    """

    is_default: bool
    model_id: str | None
    precision: str | None
    radius_m: float
    threshold: float
    settings: Mapping[str, float]
    intercept: float
    coefficients: tuple[float, ...]
    position_scale: float = 1.0
    heading_scale: float = 1.0
    frames: int = 0
    unknown_frames: int = 0
    reliability: tuple[ReliabilityBin, ...] = ()
    source: str = ""

    def probability(self, features: NDArray[np.float64]) -> float:
        """P(position within ``radius_m`` of the truth) of a hypothesis with these (F,) features."""
        return float(self.probabilities(features[None])[0])

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of (n, F) features: (n,)."""
        logit = self.intercept + features @ np.array(self.coefficients)
        return expit(logit)

    def misfit(self, model_id: str, precision: str, config: LocalizerConfig) -> str:
        """Why it does not hold for a network and settings; empty where it does."""
        if model_id != self.model_id:
            return f"its calibration is of model {str(self.model_id)[:16]}… and the network is model {model_id[:16]}…"
        if precision != self.precision:
            return f"its calibration is for {self.precision} and the engine computes in {precision}"
        changed = [name for name in SETTINGS if getattr(config, name) != self.settings[name]]
        if changed:
            pairs = ", ".join(f"{name} {self.settings[name]:g}, not {getattr(config, name):g}" for name in changed)
            return f"its calibration is for {pairs}"
        return ""

    def content(self) -> dict[str, Any]:
        """As the map's manifest holds it; `parse` gives the same back."""
        return {
            "format": FORMAT,
            **{item.name: getattr(self, item.name) for item in fields(self) if item.name != "is_default"},
            "settings": dict(self.settings),
            "coefficients": dict(zip(FEATURES, self.coefficients, strict=True)),
            "reliability": [asdict(item) for item in self.reliability],
        }

    @classmethod
    def unscaled(cls, radius_m: float) -> Calibration:
        """One that knows nothing and leaves covariances as the spread of the matches makes them."""
        return cls(False, "", "", radius_m, 1.0, {}, 0.0, (0.0,) * len(FEATURES))

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Calibration:
        """The calibration of a manifest.

        Raises:
            MapError: Of another version or with other features, or with values that no calibration has.
        """
        version = content.get("format")
        if version != FORMAT:
            raise MapError(f"The map's calibration has version {version!r:.40}, this program reads {FORMAT}. {_REMEDY}")
        try:
            return cls(
                is_default=False,
                model_id=_text(content["model_id"]),
                precision=_text(content["precision"]),
                radius_m=_number(content["radius_m"], 1e-6, 1e6),
                threshold=_number(content["threshold"], 1e-6, 1.0),
                settings={name: _number(content["settings"][name], 1e-9, 1e9) for name in SETTINGS},
                intercept=_number(content["intercept"], -1e6, 1e6),
                coefficients=_of_features(content["coefficients"]),
                position_scale=_number(content["position_scale"], 1e-6, 1e6),
                heading_scale=_number(content["heading_scale"], 1e-6, 1e6),
                frames=_count(content["frames"]),
                unknown_frames=_count(content["unknown_frames"]),
                reliability=tuple(
                    ReliabilityBin(
                        _number(item["predicted"], 0, 1), _number(item["right"], 0, 1), _count(item["count"])
                    )
                    for item in content["reliability"][:_MOST_BINS]
                ),
                source=_text(content["source"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            raise MapError(
                f"The map's calibration is damaged: {type(problem).__name__} {problem}. {_REMEDY}"
            ) from problem


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} is not text")
    return value


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{str(value)[:80]!r} is no number from {low:g} to {high:g}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError(f"{str(value)[:80]!r} is no count")
    return value


def _of_features(values: Any) -> tuple[float, ...]:
    if set(values) != set(FEATURES):
        raise ValueError(f"the features are {', '.join(map(str, values))[:200]} and not {', '.join(FEATURES)}")
    return tuple(_number(values[name], 0.0, 1e6) for name in FEATURES)


#: For maps without a calibration. Fitted as the others are, to the lists of three embedders of different quality (HOG,
#: triplet, MoCo v2) in rendered towns, a suburb, a railway and a park, with examples of unknown places at full weight;
#: ``similarity``, which means something else for each network, is left out. At the threshold it accepts 741 of those
#: 9,112 lists, none of them wrong, and 11 of the 9,743 lists of unknown places.
DEFAULT = Calibration(
    is_default=True,
    model_id=None,
    precision=None,
    radius_m=25.0,
    threshold=0.95,
    settings={},
    intercept=-3.29,
    coefficients=(0.0, 11.84, 0.43, 0.79, 1.42),
    frames=9112,
    unknown_frames=9743,
    source="built in: other maps and networks than this one",
)
