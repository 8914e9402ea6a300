"""Bundles of the papers' networks with random weights, for benchmarks: what they cost does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from vgssl_core.errors import ConfigError
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.inference import Bundle, load_bundle, write_bundle

_SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Which bundle a benchmark runs, and on what.

    Attributes:
        network: Made with random weights: resnet50, resnet18, deit.
        bundle: Bundle to run instead.
        folder: Where bundles of random weights are kept.
        width: Of the network's input in pixels.
        height: Of the network's input in pixels.
        backend: Engine.
        threads: Of everything; all cores where it is not given.
    """

    network: str = "resnet50"
    bundle: Path | None = None
    folder: Path = Path("runs/bundles")
    width: int = 640
    height: int = 480
    backend: str = "auto"
    threads: int | None = None


def chosen_bundle(options: BundleOptions) -> Bundle:
    """The given bundle, or else one of random weights."""
    if options.bundle is not None:
        return load_bundle(options.bundle)
    return random_bundle(options.folder, options.network, options.width, options.height)


def photograph(seed: int, width: int, height: int) -> Image:
    """Colour structure at all scales, finer ones weaker, as in photographs."""
    rng, image = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for exponent in range(2, 10):
        grid = rng.standard_normal((2**exponent * 3 // 4, 2**exponent, 3)).astype(np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2 ** (0.6 * exponent)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def random_bundle(folder: Path, network: str, width: int, height: int) -> Bundle:
    """The bundle ``folder/NETWORK-WIDTHxHEIGHT`` in fp32 and int8; what an earlier run left there is used again.

    Args:
        folder: Where bundles are kept.
        network: ``resnet50``, ``resnet18`` (GeM, 1024 dimensions) or ``deit`` (DeiT-S distilled, 256 dimensions).
        width: Of the input in pixels.
        height: Of the input in pixels.

    Raises:
        ConfigError: Another network.
    """
    path = folder / f"{network}-{width}x{height}"
    if path.is_dir():
        return load_bundle(path)
    # Only to make a bundle: engines run without torch.
    from vgssl_core.models import model_id
    from vgssl_core.models.config import NetworkConfig
    from vgssl_core.models.low_precision import int8
    from vgssl_core.models.onnx_export import export_onnx, verified_descriptors
    from vgssl_core.models.statistics import untrained_network

    configs = {
        "resnet50": NetworkConfig(),
        "resnet18": NetworkConfig(backbone="resnet18"),
        "deit": NetworkConfig(
            backbone="deit_small_distilled_patch16_224", pooling="cls", descriptor_dim=256, width=width, height=height
        ),
    }
    if network not in configs:
        raise ConfigError(f"There is no network {network!r}: choose of {', '.join(configs)}.")
    preprocessing = Preprocessing(width, height)
    images = [photograph(number, width, height) for number in range(_SAMPLES)]
    model = untrained_network(configs[network], images, preprocessing)
    onnx = export_onnx(model, preprocessing)
    descriptors, _ = verified_descriptors(onnx, model, preprocessing, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bundle(
        path,
        onnx,
        model_id=model_id(model, preprocessing),
        method="untrained",
        preprocessing=preprocessing,
        architecture=model.config.architecture(),
        training={"data": "none", "seed": 0},
        sample_images=images,
        sample_descriptors=descriptors,
        low_precision={"int8": int8(onnx, (preprocessing(image)[None] for image in images))},
    )
