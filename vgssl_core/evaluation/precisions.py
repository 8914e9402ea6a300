"""What each precision of a bundle recalls."""

from __future__ import annotations

from pathlib import Path

from vgssl_core.evaluation.metrics import Metrics
from vgssl_core.evaluation.retrieval import retrieve
from vgssl_core.inference import load_bundle, open_embedder
from vgssl_core.places import PlaceSet


def measure_precisions(bundle: str | Path, place_set: PlaceSet) -> dict[str, Metrics]:
    """Recall@1/5/10 of every precision in a bundle, by ONNX Runtime, on one place set.

    Args:
        bundle: The bundle's folder.
        place_set: Database and queries.

    Returns:
        Precision → metrics, fp32 first.

    Raises:
        BundleError, DataError: The bundle or the set cannot be used.
    """
    loaded = load_bundle(bundle)
    names = sorted(loaded.precisions, key=lambda name: name != "fp32")
    # Other precisions are judged by what they recall, not by how near their descriptors are.
    embedders = (open_embedder(loaded, "onnxruntime", check=False, precision=name) for name in names)
    return {name: retrieve(embedder, place_set).metrics for name, embedder in zip(names, embedders, strict=True)}
