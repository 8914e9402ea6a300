"""Images per second and core from JPEG files to augmented training pairs, against PIL with torchvision's transforms.

Both make the same pairs at 640x480 from the same files: the query cropped (75 to 100 % of its area), one flip for both
images, brightness, contrast, saturation and hue changed; 8-bit RGB, before the normalisation, which training does on
its device. All in one thread, in turn, in CPU time: ``python benchmarks/data_loading.py``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image as PilImage
from torchvision import transforms
from torchvision.transforms import functional

from vgssl_core.geopair.appearance import Effect
from vgssl_core.geopair.augment import AugmentConfig, PairAugmentation
from vgssl_core.geopair.decoded_cache import DecodedCache
from vgssl_core.geopair.images import ImageMemory, ImageStore, limit_opencv_threads
from vgssl_core.imaging import Preprocessing

FILES, ROUNDS = 24, 7
SIZE = Preprocessing(640, 480)
STRENGTH, HUE = 0.4, 0.1

Pair = tuple[object, object]


def photograph(seed: int, width: int, height: int) -> np.ndarray:
    """Colour structure at all scales, finer ones weaker, as in photographs."""
    rng, image = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for exponent in range(2, 10):
        grid = rng.standard_normal((2**exponent * 3 // 4, 2**exponent, 3)).astype(np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2 ** (0.6 * exponent)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def ours(store: ImageStore) -> Callable[[int], Pair]:
    """Our pairs: image i with its successor."""
    augmentation = PairAugmentation(AugmentConfig(colour=Effect(STRENGTH, 1.0)), SIZE)

    def pair(index: int) -> Pair:
        positive = store[(index + 1) % len(store)]
        return augmentation.query_and_others(store[index], positive, [], np.random.default_rng(index))[:2]

    return pair


def usual(paths: list[Path]) -> Callable[[int], Pair]:
    """The same pairs by PIL and torchvision."""
    size = (SIZE.height, SIZE.width)
    crop = transforms.RandomResizedCrop(size, scale=(0.75, 1.0))
    resize = transforms.Resize(size)
    jitter = transforms.ColorJitter(STRENGTH, STRENGTH, STRENGTH, HUE)

    def view(path: Path, place: Callable[[PilImage.Image], PilImage.Image], flip: bool) -> torch.Tensor:
        image = place(PilImage.open(path).convert("RGB"))
        return functional.pil_to_tensor(jitter(functional.hflip(image) if flip else image))

    def pair(index: int) -> Pair:
        flip = bool(torch.rand(()) < 0.5)
        return view(paths[index], crop, flip), view(paths[(index + 1) % len(paths)], resize, flip)

    return pair


def images_per_second(pair: Callable[[int], Pair]) -> float:
    """Over all files, in CPU time."""
    begin = time.process_time()
    for index in range(FILES):
        pair(index)
    return 2 * FILES / (time.process_time() - begin)


def compare(folder: Path, width: int, height: int) -> None:
    """Measure all ways in turn on files of one size and print them."""
    paths = [folder / f"{width}-{number}.jpg" for number in range(FILES)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), photograph(number, width, height), [cv2.IMWRITE_JPEG_QUALITY, 90])
    nothing, cache = ImageMemory(0), DecodedCache(folder / "cache", 1024)
    ways = {
        "PIL and torchvision": usual(paths),
        "ours, from files": ours(ImageStore(paths, SIZE, nothing, 1)),
        "ours, reduced decoding": ours(ImageStore(paths, SIZE, nothing, 1, reduced=True)),
        "ours, decoded cache": ours(ImageStore(paths, SIZE, nothing, 1, cache)),
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, pair in ways.items():
            figures[name].append(images_per_second(pair))
    baseline, *others = (statistics.median(values) for values in figures.values())
    kilobytes = sum(path.stat().st_size for path in paths) / FILES / 1000
    print(
        f"JPEG {width}x{height} ({kilobytes:.0f} kB) to pairs at {SIZE.width}x{SIZE.height}: images/s per core, ratio"
    )
    for name, speed in zip(ways, (baseline, *others), strict=True):
        print(f"  {name:24s}{speed:8.0f}{speed / baseline:8.1f}")


def main() -> None:
    """Compare on two sizes."""
    torch.set_num_threads(1)
    limit_opencv_threads()
    with tempfile.TemporaryDirectory() as folder:
        for width, height in ((640, 480), (1280, 960)):
            compare(Path(folder), width, height)


if __name__ == "__main__":
    main()
