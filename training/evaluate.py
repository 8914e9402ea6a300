"""Recall@N of a bundle or a baseline on a place set: ``python -m training.evaluate --help``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vgssl_core import command_line, places
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation import figures
from vgssl_core.evaluation.drive import retrieval_sections
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.report import Retrieval, Section, Tile, write_report
from vgssl_core.evaluation.retrieval import RetrievalResult, retrieve
from vgssl_core.evaluation.trust import Trust, trust_details, trust_lines, trust_section, trust_tiles
from vgssl_core.evaluation.truth import KnownImages, planar_in, trust_of
from vgssl_core.geodesy import compass_to_yaw_rad
from vgssl_core.geomap import load_map
from vgssl_core.imaging import read_image
from vgssl_core.inference import Embedder, open_embedder
from vgssl_core.localization import Localizer
from vgssl_core.storage import check_output_folder


@dataclass(frozen=True)
class EvaluateConfig:
    """Recall@N of a model bundle, or of a baseline, on a place set.

    Attributes:
        data: Place set with database and queries.
        out: Folder for metrics.json and report.html.
        bundle: Model bundle.
        map: Ask this map too where the queries were taken, and report how far its probabilities and fixes can be
            trusted; it must be of the same bundle and hold the streets of the queries.
        baseline: Evaluate this instead of the bundle's network: hog (hand-made), or untrained (the architecture of
            the bundle, or without one of the small configuration, with random weights and with batch-norm statistics
            estimated on images of the set's train split, or of the whole set where it has no splits).
        split: Which split of the set, where it has splits.
        backend: Engine that runs the bundle.
        precision: What the engine computes in: auto, fp32, fp16, bf16 or int8.
        radius_m: A database image within this distance of a query is right.
        seed: Seed of the untrained network.
        skip_damaged: Leave out images that do not decode instead of stopping.
    """

    data: Path
    out: Path
    bundle: Path | None = None
    map: Path | None = None
    baseline: Literal["hog", "untrained"] | None = None
    split: Literal["train", "val", "test"] = "test"
    backend: str = "auto"
    precision: str = "auto"
    radius_m: float = 25.0
    seed: int = 0
    skip_damaged: bool = False


def evaluate(config: EvaluateConfig) -> None:
    """Print the recall line and write ``metrics.json`` and ``report.html``."""
    check_output_folder(config.out, "--out")
    place_set = places.read_place_set(config.data, config.split)
    embedder = _embedder(config)
    # Before the work: a map of another model is refused.
    localizer = None if config.map is None else Localizer(embedder, load_map(config.map))
    result = retrieve(embedder, place_set, config.radius_m, skip_damaged=config.skip_damaged)
    trust = None if localizer is None else _trust(localizer, result)
    details = {} if trust is None else {"map": str(config.map), **trust_details(trust)}
    replace(result.metrics, details=details).write(config.out)
    _write_report(config, result, trust)
    print("\n".join([result.metrics.line(), *([] if trust is None else trust_lines(trust))]))


def _trust(localizer: Localizer, result: RetrievalResult) -> Trust:
    queries = result.queries
    planar_m = planar_in(localizer.geomap, queries)
    return trust_of(localizer, KnownImages(result.descriptors, planar_m, compass_to_yaw_rad(queries.heading_deg)))


def _embedder(config: EvaluateConfig) -> Embedder:
    if config.baseline == "hog":
        return HogEmbedder()
    if config.baseline == "untrained":
        # Only this baseline needs torch: bundles are evaluated without it.
        from vgssl_core.models.untrained import untrained_embedder

        return untrained_embedder(config.bundle, config.data, config.split, config.seed)
    if config.bundle is None:
        raise ConfigError("Nothing to evaluate: give --bundle BUNDLE, or --baseline hog, or --baseline untrained.")
    return open_embedder(config.bundle, config.backend, precision=config.precision)


def _write_report(config: EvaluateConfig, result: RetrievalResult, trust: Trust | None) -> None:
    metrics = result.metrics
    name = config.baseline or str(config.bundle)
    covered = f"{metrics.queries} of {metrics.queries_total} queries, {metrics.database} database images"
    errors = result.match_error_m

    def pictures(queries: Sequence[int]) -> list[Retrieval]:
        matches = result.neighbours[queries, 0]
        return [
            Retrieval(
                read_image(result.queries.paths[query]),
                read_image(result.database.paths[match]),
                f"{errors[query]:.1f} m apart",
                bool(errors[query] <= config.radius_m),
            )
            for query, match in zip(queries, matches, strict=True)
        ]

    write_report(
        config.out / "report.html",
        f"Retrieval on {config.data.resolve().name}",
        f"{name}: {metrics.protocol}.",
        [
            *(Tile(f"Recall@{n}", f"{value:.1f} %", covered) for n, value in metrics.recall.items()),
            *([] if trust is None else trust_tiles(trust_details(trust))),
        ],
        [
            Section("Recall", figures=[figures.recall_bars({name: metrics.recall})]),
            *([] if trust is None else [trust_section(trust)]),
            *retrieval_sections(errors, result.positives.getnnz(axis=1) > 0, pictures),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this program."""
    return command_line.run(evaluate, EvaluateConfig, arguments, "vgssl evaluate")


if __name__ == "__main__":
    sys.exit(main())
