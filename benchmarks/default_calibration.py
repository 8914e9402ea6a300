"""What the built-in calibration's numbers come from, and what it accepts on embedders and streets of your choice.

``python benchmarks/default_calibration.py --data SET SET:val --bundles BUNDLE ...`` asks the queries of place sets in
maps of their own databases, with HOG and with each bundle, once as they are and once with their place taken out. Then
all lists are fitted together as the built-in calibration was (without ``similarity``, which means something else for
each network; unknown places at full weight), and the fit is printed beside the built-in numbers. These are such a fit,
rounded, to HOG and small networks by triplet and MoCo v2 on rendered towns, KITTI, Nordland and Stromovka. Other
networks and sets give other numbers: what has to hold is the last table, that hardly anything wrong is accepted.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from reporting import publish, table

from vgssl_core.command_line import run
from vgssl_core.evaluation.hog import HogEmbedder
from vgssl_core.evaluation.intervals import clopper_pearson
from vgssl_core.evaluation.truth import known_places
from vgssl_core.geomap import build_map
from vgssl_core.geomap.map_images import from_place_set
from vgssl_core.inference import Embedder, embed_images, load_bundle, open_embedder
from vgssl_core.localization import DEFAULT, FEATURES, Examples, fit_calibration, gather_examples
from vgssl_core.places import read_place_set


@dataclass(frozen=True)
class Config:
    """What the built-in calibration's numbers come from, and what it accepts.

    Attributes:
        data: Place sets with database and queries, as FOLDER or FOLDER:SPLIT.
        bundles: Model bundles beside HOG.
        docs: Markdown file in which the tables replace the section benchmark:default_calibration.
    """

    data: list[str] = field(
        default_factory=lambda: [
            f"../shared/data/{name}" for name in ("nordland64/train", "nordland64/val", "kitti00_loop")
        ]
    )
    bundles: list[Path] = field(default_factory=list)
    docs: Path | None = None


def examples_of(embedder: Embedder, folder: Path, split: str | None) -> Examples:
    """The queries of a place set in a map of its database."""
    images = from_place_set(folder, split)
    embedded = embed_images(embedder, images.items, total=len(images.positions))
    with tempfile.TemporaryDirectory() as aside:
        positions = images.positions.subset(embedded.kept)
        geomap = build_map(Path(aside) / "map", embedded.descriptors, embedder.model_id, positions)
        queries = known_places(embedder, read_place_set(folder, split).queries, geomap).not_in(geomap)
        return gather_examples(geomap, queries.descriptors, queries.planar_m, queries.yaw_rad)


def _embedders(bundles: Sequence[Path]) -> Iterator[tuple[str, Embedder]]:
    yield "HOG", HogEmbedder()
    for folder in bundles:
        bundle = load_bundle(folder)
        yield f"{folder.name} {bundle.model_id[:8]}", open_embedder(bundle, threads=1)


def main(config: Config) -> None:
    logging.disable(logging.WARNING)
    parts, rows = [], []
    for label, embedder in _embedders(config.bundles):
        for given in config.data:
            name, _, split = given.partition(":")
            part = examples_of(embedder, Path(name), split or None)
            parts.append(part)
            accepted = DEFAULT.probabilities(part.features) >= DEFAULT.threshold
            fixes, unknown = accepted & part.is_known, accepted[~part.is_known]
            cells = [int(part.is_known.sum()), int(fixes.sum()), int((fixes & ~part.is_right).sum())]
            false = clopper_pearson(int(unknown.sum()), len(unknown))
            rows.append([f"{label}, {Path(name).name}", *map(str, cells), str(len(unknown)), f"{false.count}: {false}"])
    examples = Examples.joined(parts)
    examples = replace(examples, features=examples.features * (np.array(FEATURES) != "similarity"))
    fitted = fit_calibration(examples, "any", "fp32", DEFAULT.radius_m, unknown_weight=1.0)
    numbers = [
        [name, f"{one:.2f}", f"{other:.2f}"]
        for name, one, other in zip(
            ("intercept", *FEATURES),
            (fitted.intercept, *fitted.coefficients),
            (DEFAULT.intercept, *DEFAULT.coefficients),
            strict=True,
        )
    ]
    header = ["embedder, places", "lists", "accepted", "of these wrong", "of unknown places", "of these accepted"]
    text = [table(["", "fitted here", "built in"], numbers), "", table(header, rows)]
    publish("\n".join(text), config.docs, "default_calibration")


if __name__ == "__main__":
    sys.exit(run(main, Config, None, "benchmarks/default_calibration.py"))
