"""The one loop that embeds many images, for evaluation and map building."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vgssl_core.errors import DataError
from vgssl_core.imaging import Image, read_image
from vgssl_core.inference.embedder import Embedder

#: What to do with an image that does not decode.
OnError = Literal["raise", "skip", "keep"]
_DECODERS = 2
_NAMED_FAILURES = 5
_log = logging.getLogger(__name__)


class EmbeddedImages(NamedTuple):
    """Descriptors of the images that decoded.

    Attributes:
        descriptors: (M, D) float32, unit rows.
        kept: (M,) int64, index of each row's image in what was given.
        failures: Name and reason of every image that did not decode.
    """

    descriptors: NDArray[np.float32]
    kept: NDArray[np.int64]
    failures: list[tuple[str, str]]


def embed_files(
    embedder: Embedder,
    paths: Sequence[str | Path],
    batch_size: int = 16,
    on_error: OnError = "raise",
    progress: bool = True,
    description: str = "embed",
) -> EmbeddedImages:
    """Embed image files; see `embed_images`."""
    items = ((str(path), functools.partial(read_image, path)) for path in paths)
    return embed_images(embedder, items, batch_size, on_error, len(paths) if progress else None, description)


def embed_images(
    embedder: Embedder,
    items: Iterable[tuple[str, Callable[[], Image]]],
    batch_size: int = 16,
    on_error: OnError = "raise",
    total: int | None = None,
    description: str = "embed",
    bar: tqdm | None = None,
) -> EmbeddedImages:
    """Decode and resize in threads, ahead of the engine, which embeds in batches.

    Args:
        embedder: The engine.
        items: Name and loader of each image; a loader raises `DataError` for an image that does not decode.
        batch_size: Images per call of the engine.
        on_error: ``raise`` refuses a set with images that do not decode, after all of them were tried, so that they
            are counted and named; ``skip`` leaves them out, and counts and names them in the result and in the log;
            ``keep`` hands them back without a word, to a caller that joins several results and then asks
            `judge_failures`.
        total: Number of items, for the progress bar; None shows no bar.
        description: Label of the progress bar.
        bar: A bar of the caller's that goes on, instead of one of its own.

    Raises:
        DataError: Images do not decode and ``on_error`` is ``raise``; or no image is left.
    """
    blocks: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failures: list[tuple[str, str]] = []
    own_bar = functools.partial(tqdm, total=total, desc=description, unit="image", disable=total is None)
    with own_bar() if bar is None else contextlib.nullcontext(bar) as shown:
        decoded = enumerate(_decoded(items, embedder, 2 * batch_size))
        while chunk := list(itertools.islice(decoded, batch_size)):
            images = []
            for index, (name, image) in chunk:
                if isinstance(image, DataError):
                    failures.append((name, str(image)))
                else:
                    images.append(image)
                    kept.append(index)
            if images:
                blocks.append(embedder.embed(images))
            shown.update(len(chunk))
    if on_error != "keep":
        judge_failures(failures, len(kept), on_error)
    descriptors = np.concatenate(blocks) if blocks else np.empty((0, embedder.dimension), np.float32)
    return EmbeddedImages(descriptors, np.array(kept, np.int64), failures)


def _decoded(
    items: Iterable[tuple[str, Callable[[], Image]]], embedder: Embedder, ahead: int
) -> Iterator[tuple[str, Image | DataError]]:
    """Images of network size in their order, or the error of one, decoded up to ``ahead`` images in advance."""

    def load(loader: Callable[[], Image]) -> Image | DataError:
        try:
            return embedder.preprocessing.resize(loader())
        except DataError as problem:
            return problem

    waiting: deque[tuple[str, Future[Image | DataError]]] = deque()
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
        try:
            for name, loader in items:
                waiting.append((name, pool.submit(load, loader)))
                if len(waiting) > ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for name, future in waiting:
                yield name, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def judge_failures(failures: Sequence[tuple[str, str]], kept: int, on_error: OnError) -> None:
    """Refuse a set with images that do not decode, or count and name them in the log.

    Args:
        failures: Name and reason of each.
        kept: How many others there are.
        on_error: See `embed_images`.

    Raises:
        DataError: There are some and ``on_error`` is ``raise``, or there is no other image.
    """
    if not failures:
        return
    if on_error == "raise" or not kept:
        named = ", ".join(name for name, _ in failures[:_NAMED_FAILURES])
        more = ", …" if len(failures) > _NAMED_FAILURES else ""
        raise DataError(
            f"{len(failures)} of {len(failures) + kept} images do not decode: {named}{more}. Replace or remove "
            f"them{', or give --skip-damaged' if kept else ''}."
        )
    for _, reason in failures[:_NAMED_FAILURES]:
        _log.warning("%s", reason)
    rest = len(failures) - _NAMED_FAILURES
    _log.warning(
        "%d of %d images do not decode and were left out%s.",
        len(failures),
        len(failures) + kept,
        f" ({rest} more than those named)" if rest > 0 else "",
    )
