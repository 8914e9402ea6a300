"""Every engine and precision that runs here, on the papers' networks, in turn in one process.

``python benchmarks/embed.py`` makes bundles of ResNet50-GeM and DeiT-S at 640x480 with random weights (that needs
torch) and prints a Markdown table: milliseconds of `embed` for one image with all its preprocessing, images per second,
the share of what large fp32 convolutions reach in the same run, how many times faster than eager torch with the same
threads (the network alone, on a tensor that is ready), the lowest cosine with the original network on the bundle's
samples, and with ``--data`` the Recall@1. A bundle of yours: ``--bundles FOLDER``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flop import ConvolutionLimit, gflop
from random_bundle import photograph, random_bundle
from reporting import machine, publish, table

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.evaluation.retrieval import retrieve
from vgssl_core.inference import Bundle, Embedder, load_bundle, open_embedder, self_test
from vgssl_core.inference.backends import MINIMUM_COSINE, obstacles
from vgssl_core.inference.threads import set_threads
from vgssl_core.places import read_place_set

_HEADER = ("engine", "precision", "ms p50", "ms p99", "images/s", "of fp32 limit", "x torch", "cosine", "R@1")
#: After torch its threads burn the cores for some milliseconds.
_REST_S = 0.03


@dataclass(frozen=True)
class Config:
    """Compare engines and precisions.

    Attributes:
        networks: Made with random weights: resnet50, resnet18, deit.
        bundles: Bundles to measure instead.
        folder: Where bundles of random weights are kept.
        width: Of the input of random networks in pixels.
        height: Of the input of random networks in pixels.
        threads: Of every engine and of torch; all cores where it is not given.
        rounds: All engines take turns so many times.
        images: Counted in each turn of an engine.
        torch: Measure eager torch too.
        data: Place set to measure the Recall@1 on.
        split: Which split of the set, where it has splits.
        docs: Markdown file in which the table replaces the section benchmark:embed.
    """

    networks: list[str] = field(default_factory=lambda: ["resnet50", "deit"])
    bundles: list[Path] = field(default_factory=list)
    folder: Path = Path("runs/bundles")
    width: int = 640
    height: int = 480
    threads: int | None = None
    rounds: int = 5
    images: int = 5
    torch: bool = True
    data: Path | None = None
    split: str = "test"
    docs: Path | None = None


@dataclass(frozen=True)
class Contestant:
    """What embeds one image.

    Attributes:
        engine, precision: Its name.
        embed: Does it.
        cosine: Lowest with the original network on the samples.
        recall: Recall@1, None where it was not measured.
    """

    engine: str
    precision: str
    embed: Callable[[], object]
    cosine: float | None = None
    recall: float | None = None


def contestants(bundle: Bundle, config: Config, threads: int) -> tuple[list[Contestant], list[str]]:
    """All engines that run the bundle, torch first, and why others that might do not."""
    found = [_eager(bundle, threads)] if config.torch else []
    absent = []
    networks = {entry.get("precision") for entry in bundle.files.values()}
    for precision in MINIMUM_COSINE:
        if precision not in networks and precision != "bf16":
            absent.append(f"{precision}: the bundle has no such network")
            continue
        for backend, problem in obstacles(precision).items():
            if problem is None:
                found.append(_engine(bundle, backend, precision, config, threads))
            elif not problem.startswith("it has no"):
                absent.append(f"{backend} {precision}: {problem}")
    return found, absent


def _engine(bundle: Bundle, backend: str, precision: str, config: Config, threads: int) -> Contestant:
    embedder = open_embedder(bundle, backend, threads, check=False, precision=precision)
    image = [photograph(0, bundle.preprocessing.width, bundle.preprocessing.height)]
    cosine = self_test(embedder, bundle, minimum_cosine=-1.0)
    return Contestant(backend, precision, lambda: embedder.embed(image), cosine, _recall(embedder, config))


def _recall(embedder: Embedder, config: Config) -> float | None:
    if config.data is None:
        return None
    return retrieve(embedder, read_place_set(config.data, config.split), ns=(1,)).metrics.recall[1]


def _eager(bundle: Bundle, threads: int) -> Contestant:
    """The same architecture as peers run it: eager torch, in inference mode, on a ready tensor."""
    import torch

    from vgssl_core.models import build_network
    from vgssl_core.models.config import NetworkConfig

    torch.set_num_threads(threads)
    network = build_network(NetworkConfig.from_architecture(bundle.architecture)).eval()
    pixels = torch.zeros(1, 3, bundle.preprocessing.height, bundle.preprocessing.width)

    @torch.inference_mode()
    def embed() -> object:
        return network(pixels)

    return Contestant("torch eager", "fp32", embed)


def turn(contestant: Contestant, images: int) -> list[float]:
    """Milliseconds of each image; the first one does not count."""
    time.sleep(_REST_S)
    contestant.embed()
    stamps = [time.perf_counter()]
    for _ in range(images):
        contestant.embed()
        stamps.append(time.perf_counter())
    return (1e3 * np.diff(stamps)).tolist()


def measure(bundle: Bundle, config: Config, threads: int) -> str:
    """A bundle's part of the report."""
    everyone, absent = contestants(bundle, config, threads)
    limit, times = ConvolutionLimit(threads), [[] for _ in everyone]
    for _ in range(config.rounds):
        limit.measure()
        for contestant, own in zip(everyone, times, strict=True):
            own += turn(contestant, config.images)
    work = gflop(bundle.model_path())
    medians = [float(np.median(own)) for own in times]
    rows = []
    for contestant, own, median in zip(everyone, times, medians, strict=True):
        share = 100 * work / (median / 1e3) / limit.gflops
        rows.append(
            [
                contestant.engine,
                contestant.precision,
                f"{median:.1f}",
                f"{np.percentile(own, 99):.1f}",
                f"{1e3 / median:.1f}",
                f"{share:.0f} %" if contestant.precision == "fp32" else "–",
                f"{medians[0] / median:.2f}" if config.torch else "–",
                "–" if contestant.cosine is None else f"{contestant.cosine:.6f}",
                "–" if contestant.recall is None else f"{contestant.recall:.1f}",
            ]
        )
    shape = bundle.preprocessing
    title = f"**{bundle.path.name}**, {shape.width}x{shape.height}, {work:.1f} GFLOP per image; large convolutions "
    notes = "".join(f"- Not measured: {reason}.\n" for reason in absent)
    return f"{title}reach {limit.gflops:.0f} GFLOP/s:\n\n{table(_HEADER, rows)}\n\n{notes}"


def embed(config: Config) -> None:
    """Measure every bundle and print."""
    if min(config.rounds, config.images) < 1:
        raise ConfigError("--rounds and --images must be at least 1.")
    logging.disable(logging.INFO)
    threads = set_threads(config.threads)
    made = (random_bundle(config.folder, name, config.width, config.height) for name in config.networks)
    bundles = [load_bundle(path) for path in config.bundles] or list(made)
    parts = [measure(bundle, config, threads) for bundle in bundles]
    how = f"Medians over {config.rounds} rounds of {config.images} images, one image at a time, engines in turn"
    packages = ["onnxruntime", *[name for name in ("openvino", "torch") if config.torch or name != "torch"]]
    publish("\n".join([*parts, f"{how}. {machine(threads, *packages)}."]), config.docs, "embed")


if __name__ == "__main__":
    sys.exit(run(embed, Config, None, "benchmarks/embed.py"))
