"""A process that loads damaged maps and bundles, one after the other, and says what came of each.

A crash of it is seen by `test_fuzz.py` as such, and kills no test run. Its address space is limited.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tiny import picture

from vgssl_core.errors import VgsslError
from vgssl_core.geomap import GeoMap, load_map, verify_map
from vgssl_core.guarded import limit_memory
from vgssl_core.inference import load_bundle, open_embedder

#: Address space beyond the imports: allocators of the libraries reserve gigabytes that they do not use.
MEMORY_BYTES = 6_000_000_000


def use_map(folder: Path) -> None:
    """Load it, ask it, read its records."""
    geomap = load_map(folder)
    _ask(geomap)
    assert len(geomap.sources) == len(geomap)


def use_and_verify_map(folder: Path) -> None:
    """All that, and look at every byte."""
    use_map(folder)
    _ask(verify_map(folder))


def _ask(geomap: GeoMap) -> None:
    queries = np.random.default_rng(0).standard_normal((3, geomap.dimension)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    matches = geomap.search(queries, 5)
    assert ((matches.indices >= 0) & (matches.indices < len(geomap))).all()
    assert np.isfinite(matches.distances).all()
    assert np.isfinite(geomap.positions_m[matches.indices][..., :2]).all()
    near = geomap.search_near(queries, 5, *geomap.positions_m[0, :2], 50.0)
    assert ((near.indices >= 0) & (near.indices < len(geomap))).all()
    geomap.to_wgs84(geomap.positions_m[matches.indices])


def use_bundle(folder: Path) -> None:
    """Load it, read its samples, embed an image."""
    bundle = load_bundle(folder)
    images, descriptors = bundle.samples()
    assert len(images) == len(descriptors)
    assert np.isfinite(descriptors).all()
    assert open_embedder(bundle, "onnxruntime", threads=1).embed([picture(1)]).shape == (1, bundle.dimension)


USES: dict[str, Callable[[Path], None]] = {"map": use_and_verify_map, "indexed map": use_map, "bundle": use_bundle}


def main() -> None:
    """Answer each line ``{"use", "folder"}`` with one line ``{"outcome", "peak_kb"}``."""
    limit_memory(MEMORY_BYTES)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            USES[request["use"]](Path(request["folder"]))
            outcome = "loaded"
        except VgsslError as problem:
            outcome = f"refused: {problem}"
        except BaseException as problem:
            outcome = f"{type(problem).__name__}: {problem}"
        print(json.dumps({"outcome": outcome, "peak_kb": peak_memory_kb()}), flush=True)


def peak_memory_kb() -> int:
    """The most that this process ever had in memory; `getrusage` would count what started it, too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
