"""What the node localizes with, for those who want to know: ``~/map_info``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from vgssl_core.localization import Localizer


def map_info(localizer: Localizer, map_frame: str, image_topics: Sequence[str]) -> str:
    """One JSON object about the map, the model, the calibration and the cameras."""
    geomap, calibration = localizer.geomap, localizer.calibration
    manifest = geomap.manifest
    content = {
        "map_id": manifest.map_id,
        "map_path": str(geomap.path),
        "created": manifest.created,
        "source": manifest.source,
        "count": len(geomap),
        "spacing_m": geomap.spacing_m,
        "extent_m": {"low": manifest.low_m, "high": manifest.high_m},
        "datum": None if geomap.datum is None else asdict(geomap.datum),
        "map_frame": map_frame,
        "search": geomap.search_name,
        "model_id": geomap.model_id,
        "engine": getattr(localizer.embedder, "name", type(localizer.embedder).__name__),
        "image_topics": list(image_topics),
        "calibration": {
            "is_default": calibration.is_default,
            "radius_m": calibration.radius_m,
            "threshold": localizer.threshold,
            "source": calibration.source,
        },
    }
    return json.dumps(content, allow_nan=False)
