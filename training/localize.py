"""Where was this photo taken? ``python -m training.localize --map MAP photo.jpg``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgssl_core import command_line
from vgssl_core.geodesy import yaw_to_compass_deg
from vgssl_core.imaging import read_image
from vgssl_core.localization import Hypothesis, Localization, Localizer, LocalizerConfig, open_localizer


@dataclass(frozen=True)
class LocalizeConfig:
    """Where was this photo taken? Compares an image with a map and prints the best hypotheses.

    Attributes:
        photo: Image file.
        map: The map's folder.
        bundle: Model bundle; the one that built the map where it is not given.
        json: Print JSON instead of a table; in both rank 0 is the best.
        backend: Engine that runs the bundle.
        precision: What the engine computes in: auto, fp32, fp16, bf16 or int8.
        threads: Threads of the engine; all cores where it is not given.
        localizer: How matches become hypotheses.
    """

    photo: Path
    map: Path
    bundle: Path | None = None
    json: bool = False
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)


def localize(config: LocalizeConfig) -> None:
    """Print the hypotheses of one photo."""
    image = read_image(config.photo)
    localizer = open_localizer(
        config.map, config.bundle, config.localizer, config.backend, config.threads, precision=config.precision
    )
    result = localizer.localize(image)
    print(_as_json(config, localizer, result) if config.json else _as_table(localizer, result))


def _as_table(localizer: Localizer, result: Localization) -> str:
    local = localizer.geomap.datum is None
    place = f"{'x m':>12} {'y m':>12}" if local else f"{'latitude':>12} {'longitude':>12}"
    lines = [f"{'rank':>4} {place} {'heading':>8} {'± m':>7} {'P':>6} {'score':>6} {'matches':>8}"]
    for item in result.hypotheses:
        first, second = item.position_m[:2] if local else (item.latitude_deg, item.longitude_deg)
        digits = 2 if local else 7
        heading = "–" if math.isnan(item.yaw_rad) else f"{float(yaw_to_compass_deg(item.yaw_rad)):.0f}°"
        lines.append(
            f"{item.rank:>4} {first:>12.{digits}f} {second:>12.{digits}f} {heading:>8} {item.sigma_m:>7.1f} "
            f"{item.probability:>6.3f} {item.score:>6.3f} {item.support:>8}"
        )
    lines.append(f"best match: {localizer.geomap.sources[int(result.indices[0])]}, distance {result.distances[0]:.3f}")
    verdict = "reaches" if result.accepted else "does not reach"
    within = f"within {localizer.calibration.radius_m:g} m of the truth"
    lines.append(f"P, the probability to lie {within}, {verdict} the threshold of {result.threshold:.3f}.")
    if localizer.calibration.is_default:
        lines.append("This map is not calibrated: P is that of a cautious default, see `vgssl calibrate`.")
    best = result.hypotheses[0]
    if not local:
        where = f"{best.latitude_deg:.6f}/{best.longitude_deg:.6f}"
        link = f"mlat={best.latitude_deg:.6f}&mlon={best.longitude_deg:.6f}#map=18/{where}"
        lines.append(f"https://www.openstreetmap.org/?{link}")
    return "\n".join(lines)


def _as_json(config: LocalizeConfig, localizer: Localizer, result: Localization) -> str:
    content = {
        "photo": str(config.photo),
        "map": str(config.map),
        "accepted": result.accepted is not None,
        "threshold": result.threshold,
        "is_calibrated": not localizer.calibration.is_default,
        "hypotheses": [_plain(item) for item in result.hypotheses],
        "matches": [
            {"source": localizer.geomap.sources[int(index)], "distance": round(float(distance), 6)}
            for index, distance in zip(result.indices, result.distances, strict=True)
        ],
        "timings_ms": {stage: round(value, 3) for stage, value in result.timings_ms.items()},
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def _plain(item: Hypothesis) -> dict[str, Any]:
    """JSON values; what is not known is null."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    return {
        "rank": item.rank,
        "latitude_deg": known(item.latitude_deg),
        "longitude_deg": known(item.longitude_deg),
        "altitude_m": known(item.altitude_m),
        "heading_deg": known(float(yaw_to_compass_deg(item.yaw_rad))),
        "position_m": [known(value) for value in item.position_m.tolist()],
        "yaw_rad": known(item.yaw_rad),
        "covariance": item.covariance.tolist(),
        "sigma_m": item.sigma_m,
        "score": item.score,
        "probability": item.probability,
        "support": item.support,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    return command_line.run(localize, LocalizeConfig, arguments, "vgssl localize", positional=("photo",))


if __name__ == "__main__":
    sys.exit(main())
