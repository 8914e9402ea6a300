"""What people want to know about a map, as lines of text."""

from __future__ import annotations

import math

import numpy as np

from vgssl_core.geomap.builder import WORK_PREFIX
from vgssl_core.geomap.geo_map import GeoMap


def describe(geomap: GeoMap) -> list[str]:
    """Lines ``name  value``: content, extent, datum, model, size."""
    manifest, datum = geomap.manifest, geomap.datum
    width, height = (high - low for low, high in zip(manifest.low_m, manifest.high_m, strict=True))
    known_yaw = int(np.isfinite(geomap.yaw_rad).sum())
    # Without any known altitude a datum's is 0, and nobody measured it.
    has_altitude = datum is not None and (datum.altitude_m != 0 or bool(np.isfinite(geomap.poses["z"]).any()))
    lines = {
        "map": f"{geomap.path}",
        "images": f"{len(geomap)}, typically {manifest.spacing_m:.1f} m apart, {known_yaw} with heading",
        "extent": f"{width:.0f} m east-west x {height:.0f} m north-south",
        "datum": "none: a local map, without latitude and longitude"
        if datum is None
        else f"{datum.latitude_deg:.7f}, {datum.longitude_deg:.7f}, altitude "
        + (f"{datum.altitude_m:.1f} m" if has_altitude else "not known"),
        "model": f"{geomap.model_id[:16]}…, {geomap.dimension}-dimensional, {manifest.precision}",
        "bundle": manifest.bundle.get("path", "not recorded"),
        "source": manifest.source or "not recorded",
        "search": geomap.search_name,
        "index": _index(geomap),
        "calibrated": _calibrated(geomap),
        "size": f"{_readable(geomap.size_bytes)} on disk, {geomap.size_bytes / len(geomap):.0f} bytes per image",
        "created": manifest.created,
        "map id": f"{manifest.map_id[:16]}…, {len(manifest.segments)} segment(s)"
        + ("" if manifest.tile_m is None else f", cut into tiles of {manifest.tile_m:g} m"),
    }
    unfinished = sorted(item.name for item in geomap.path.glob(f"{WORK_PREFIX}*"))
    if unfinished:
        lines["unfinished"] = (
            f"{', '.join(unfinished)}: what a stopped `build-map` or `map add` has embedded. The same command goes on "
            "there; with other images it is removed, and you may remove it"
        )
    return [f"{name:<11} {value}" for name, value in lines.items()]


def _calibrated(geomap: GeoMap) -> str:
    """What the calibration was fitted to; read leniently, since whether it can be used is the localizer's to say."""
    stored = geomap.calibration
    if stored is None:
        return "no: a cautious default stands in; see `vgssl calibrate`"
    facts = {name: stored.get(name, "?") for name in ("precision", "radius_m", "threshold", "frames", "source")}
    return "on {frames} frames of {source}; {precision}, within {radius_m} m, default threshold {threshold}".format(
        **facts
    )


def _index(geomap: GeoMap) -> str:
    entry = geomap.index
    if entry is None:
        wanted = geomap.manifest.wanted_index
        until = f", until `vgssl map index {geomap.path} --kind {wanted}` builds the one that is missing"
        return f"none: every image is compared{until if wanted else ''}"
    quality = entry.quality
    parameters = ", ".join(f"{name} {value}" for name, value in entry.parameters.items())
    return (
        f"{entry.kind} ({parameters}) of {entry.count} images, {quality.bytes_per_image:.0f} bytes each; "
        f"{quality.p50_ms:.2f} ms a query, 99 % within {quality.p99_ms:.2f} ms, on the machine that built it"
    )


def _readable(size: int) -> str:
    unit = min(int(math.log10(max(size, 1)) / 3), 4)
    return f"{size / 1000**unit:.{1 if unit else 0}f} {['bytes', 'kB', 'MB', 'GB', 'TB'][unit]}"
