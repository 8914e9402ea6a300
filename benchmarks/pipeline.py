"""From an encoded or raw image to hypotheses: where the time goes, and what is allocated.

``python benchmarks/pipeline.py`` makes a bundle with random weights (that needs torch) and a simulated map, sends JPEG
files and raw frames through a `Localizer` as the robot does, and prints a Markdown table of medians per stage.
*Overhead* is everything but engine and search. The peers' pipeline beside it decodes and resizes with PIL, normalises
with numpy as torchvision does, runs ONNX Runtime with its default options and searches a flat FAISS index.

``preprocess`` is measured on a buffer of its own just before, on cold caches; ``engine`` is what `embed` takes beyond
it. ``peak KiB`` is the most that Python and numpy had allocated at once for one frame (tracemalloc); what libraries
allocate inside is not seen.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import faiss
import numpy as np
import onnxruntime
from example_map import example_map
from PIL import Image as PilImage
from random_bundle import BundleOptions, chosen_bundle, photograph
from reporting import machine, publish, table

from vgssl_core.command_line import run
from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image, Preprocessing, decode_image, raw_to_rgb
from vgssl_core.inference import Bundle, open_embedder
from vgssl_core.inference.input_buffer import InputBuffer
from vgssl_core.localization import Localizer

_STAGES = ("decode", "preprocess", "engine", "search", "hypotheses", "rest")
_SIZES = ((640, 480), (1920, 1080))
_PICTURES = 4
_QUALITY = 90

Stages = dict[str, float]


@dataclass(frozen=True)
class Config(BundleOptions):
    """Times of every stage from image to hypotheses.

    Attributes:
        precision: What it computes in.
        images: In the map.
        index: Kind of the map's index; auto chooses by size.
        frames: Of every kind that are counted.
        docs: Markdown file in which the table replaces the section benchmark:pipeline.
    """

    precision: str = "auto"
    images: int = 10_000
    index: str = "auto"
    frames: int = 20
    docs: Path | None = None


def decoders(localizer: Localizer) -> dict[str, list[Callable[[], Image]]]:
    """Input → what decodes each of its pictures as the robot does."""
    found: dict[str, list[Callable[[], Image]]] = {}
    for width, height in _SIZES:
        pictures = [photograph(number, width, height) for number in range(_PICTURES)]
        found[f"{width}x{height} JPEG"] = [
            partial(decode_image, jpeg(picture), "frame", localizer.least_size) for picture in pictures
        ]
        found[f"{width}x{height} bgr8"] = [
            partial(raw_to_rgb, picture.tobytes(), width, height, "bgr8", 3 * width, False, "frame")
            for picture in pictures
        ]
    return found


def jpeg(picture: Image) -> np.ndarray:
    """The encoded picture."""
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]


def stages(decode: Callable[[], Image], localizer: Localizer, buffer: InputBuffer) -> Stages:
    """Milliseconds of each stage of one frame."""
    begin = time.perf_counter()
    image = decode()
    decoded = time.perf_counter()
    buffer.fill([image])
    filled = time.perf_counter()
    buffer.fill([image])
    warm = time.perf_counter() - filled
    start = time.perf_counter()
    answer = localizer.localize(image)
    whole = time.perf_counter() - start
    inner = answer.timings_ms
    return {
        "decode": 1e3 * (decoded - begin),
        "preprocess": 1e3 * (filled - decoded),
        "engine": inner["embed"] - 1e3 * warm,
        "search": inner["search"],
        "hypotheses": inner["hypotheses"],
        "rest": 1e3 * whole - sum(inner.values()),
    }


class PeersPipeline:
    """The same task as most code for it is written."""

    def __init__(self, bundle: Bundle, descriptors: np.ndarray, k: int) -> None:
        self._session = onnxruntime.InferenceSession(str(bundle.model_path()), providers=["CPUExecutionProvider"])
        self._shape, self._k = bundle.preprocessing, k
        self._index = faiss.IndexFlatL2(bundle.dimension)
        self._index.add(descriptors)

    def stages(self, picture: Image, data: bytes | None) -> Stages:
        """Milliseconds of each stage of one frame: encoded ``data``, or else the raw picture."""
        stamps = [time.perf_counter()]
        image = PilImage.fromarray(picture) if data is None else PilImage.open(io.BytesIO(data)).convert("RGB")
        stamps.append(time.perf_counter())
        pixels = _as_torchvision(image, self._shape)
        stamps.append(time.perf_counter())
        descriptor = self._session.run(None, {self._session.get_inputs()[0].name: pixels})[0]
        stamps.append(time.perf_counter())
        self._index.search(descriptor, self._k)
        stamps.append(time.perf_counter())
        return dict(zip(_STAGES, [*(1e3 * np.diff(stamps)).tolist(), 0.0, 0.0], strict=True))


def _as_torchvision(image: PilImage.Image, shape: Preprocessing) -> np.ndarray:
    """Resize, ToTensor and Normalize, in numpy."""
    resized = image.resize((shape.width, shape.height), PilImage.Resampling.BILINEAR)
    scaled = np.asarray(resized).astype(np.float32) / 255.0
    normalised = (scaled - np.array(shape.mean, np.float32)) / np.array(shape.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))[None]


def peak_kib(work: Callable[[], object]) -> float:
    """The most memory that one call of ``work`` had allocated at once."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return (tracemalloc.get_traced_memory()[1] - before) / 1024
    finally:
        tracemalloc.stop()


def row(name: str, measured: list[Stages], kib: float) -> list[str]:
    """One line of the table: medians, and the overhead in ms and in percent of the engine."""
    medians = {stage: float(np.median([one[stage] for one in measured])) for stage in _STAGES}
    overhead = sum(medians.values()) - medians["engine"] - medians["search"]
    cells = [f"{medians[stage]:.2f}" for stage in _STAGES]
    return [name, *cells, f"{overhead:.2f}", f"{100 * overhead / medians['engine']:.1f} %", f"{kib:.0f}"]


def ours(localizer: Localizer, frames: int) -> Mapping[str, tuple[list[Stages], float]]:
    """Input → stages of every frame, and the peak memory of one."""
    buffer = InputBuffer(localizer.embedder.preprocessing)
    found = {}
    for name, ways in decoders(localizer).items():
        measured = [stages(ways[number % _PICTURES], localizer, buffer) for number in range(frames + 1)][1:]
        found[name] = measured, peak_kib(lambda way=ways[0]: localizer.localize(way()))
    return found


def peers(pipeline: PeersPipeline, frames: int) -> Mapping[str, tuple[list[Stages], float]]:
    """The same for the peers' pipeline."""
    found = {}
    for width, height in _SIZES:
        pictures = [photograph(number, width, height) for number in range(_PICTURES)]
        for kind in ("JPEG", "bgr8"):
            data = [jpeg(picture).tobytes() if kind == "JPEG" else None for picture in pictures]
            turns = [number % _PICTURES for number in range(frames + 1)]
            measured = [pipeline.stages(pictures[turn], data[turn]) for turn in turns][1:]
            kib = peak_kib(lambda picture=pictures[0], first=data[0]: pipeline.stages(picture, first))
            found[f"{width}x{height} {kind}"] = measured, kib
    return found


def measure(config: Config) -> None:
    """Measure ours and the peers' and print."""
    if min(config.frames, config.images) < 1:
        raise ConfigError("--frames and --images must be at least 1.")
    logging.disable(logging.INFO)
    bundle = chosen_bundle(config)
    embedder = open_embedder(bundle, config.backend, config.threads, precision=config.precision)
    with tempfile.TemporaryDirectory() as folder:
        geomap = example_map(Path(folder) / "map", config.images, bundle.dimension, bundle.model_id, config.index)
        localizer = Localizer(embedder, geomap)
        rows = [row(name, *found) for name, found in ours(localizer, config.frames).items()]
        others = PeersPipeline(bundle, np.ascontiguousarray(geomap.descriptors(slice(None))), localizer.config.k)
        rows += [row(f"peers: {name}", *found) for name, found in peers(others, config.frames).items()]
    header = ("image", *(f"{stage} ms" for stage in _STAGES), "overhead ms", "of engine", "peak KiB")
    shape = bundle.preprocessing
    about = f"{bundle.path.name} at {shape.width}x{shape.height} on {embedder.name}; {config.images} map images, "
    about += f"{geomap.search_name}; medians of {config.frames} frames. {machine(cv2.getNumThreads(), 'onnxruntime')}."
    publish(f"{table(header, rows)}\n\n{about}", config.docs, "pipeline")


if __name__ == "__main__":
    sys.exit(run(measure, Config, None, "benchmarks/pipeline.py"))
