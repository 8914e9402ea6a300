"""A new map out of images of others."""

from __future__ import annotations

from pathlib import Path

from vgssl_core.errors import MapError
from vgssl_core.geomap.builder import manifest_of, spacing_of, write_segments, writing
from vgssl_core.geomap.changes import chosen_tile, warn_of_calibration
from vgssl_core.geomap.manifest import MANIFEST, Manifest, bundle_reference
from vgssl_core.geomap.map_rows import MapRows


def require_new(out: Path) -> None:
    """Refuse to put a new map where one is.

    Raises:
        MapError: There is a map at ``out``.
    """
    if (out / MANIFEST).exists():
        raise MapError(f"There is a map at {out} already: give another folder for the new one, or remove it first.")


def write_derived(
    out: Path,
    rows: MapRows,
    path: Path,
    parent: Manifest,
    description: str,
    precision: str | None = None,
    source: str | None = None,
    tile_m: float | None = None,
) -> Manifest:
    """Write images as a new map in the frame of a parent, whose model and bundle it shares; its index is to be built.

    Args:
        out: Folder for the new map.
        rows: The images, in the parent's frame.
        path: The parent's folder.
        parent: The parent's manifest.
        description: Label of the progress bar.
        precision: How descriptors are stored; None takes the parent's.
        source: What the map is made from, for people; None takes the parent's.
        tile_m: Side of the tiles; 0 makes one segment; None takes the parent's.

    Raises:
        MapError: There is a map at ``out`` or something else, another process is writing it, or tiles too small.
    """
    tile = chosen_tile(tile_m, parent)
    precision = precision or parent.precision
    warn_of_calibration(parent, f"map {path}")
    require_new(out)
    with writing(out):
        require_new(out)  # Another process may have written one before this one had the right to.
        manifest = manifest_of(
            write_segments(out, rows, precision, tile, description),
            model_id=parent.model_id,
            dimension=parent.dimension,
            precision=precision,
            datum=parent.datum,
            spacing_m=spacing_of(rows.poses),
            source=parent.source if source is None else source,
            bundle=_bundle(path, parent, out),
            tile_m=tile,
            wanted_index="auto",
        )
        manifest.write(out)
    return manifest


def _bundle(path: Path, parent: Manifest, out: Path) -> dict[str, str]:
    """The parent's bundle as the new map sees it; where it is gone, what the parent remembers of it absolutely."""
    remembered = parent.bundle
    places = [path / remembered["relative"]] if "relative" in remembered else []
    places += [Path(remembered["path"])] if "path" in remembered else []
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return bundle_reference(found, out)
    return {"path": remembered["path"]} if "path" in remembered else {}
