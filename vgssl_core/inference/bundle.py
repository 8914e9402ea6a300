"""The model bundle: a folder with the network, what it needs to be used rightly, and samples to test an engine."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vgssl_core.arrays import open_array
from vgssl_core.errors import BundleError, DataError
from vgssl_core.imaging import Image, Preprocessing, decode_image
from vgssl_core.inference.trial import try_network
from vgssl_core.sealed import SEAL, require_seal, write_sealed
from vgssl_core.storage import atomic_folder, read_yaml, sha256
from vgssl_core.verified import require_inside, require_unaltered

#: Version of the folder's layout; a reader refuses any other.
FORMAT = 1
MANIFEST = "bundle.yaml"
MODEL = "model.onnx"
SAMPLES, DESCRIPTORS = "samples", "descriptors.npy"
_REMEDY = "Export it again with `vgssl export RUN --out BUNDLE`, or copy it again whole."
_MAX_DIMENSION = 65536
_MAX_SAMPLES = 1000
_MAX_SAMPLE_PIXELS, _MAX_SAMPLES_BYTES = 100_000_000, 1_000_000_000
_MAX_INPUT_PIXELS = 1 << 24
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Bundle:
    """A checked model bundle.

    Attributes:
        path: The folder.
        model_id: Hash of fp32 weights, architecture and preprocessing; all precisions and engines share it.
        method: How the network was trained, for example ``mocov2``.
        dimension: D, length of a descriptor.
        preprocessing: From an RGB image to the network's input.
        architecture, training: What the network is and what it was trained on; for people and reports.
        recall: Precision → recall that the export measured; may be empty.
        files: File name → its sha256, bytes and precision.
        sample_names: Files below ``samples/`` (PNG) whose descriptors are in ``samples/descriptors.npy``.
        default_precision: What to compute in where nothing else is asked for; the manifest may name it.
    """

    path: Path
    model_id: str
    method: str
    dimension: int
    preprocessing: Preprocessing
    architecture: dict[str, Any]
    training: dict[str, Any]
    recall: dict[str, Any]
    files: dict[str, dict[str, Any]]
    sample_names: tuple[str, ...]
    default_precision: str = "fp32"

    @property
    def precisions(self) -> dict[str, str]:
        """Precision → name of its ONNX file."""
        return {entry["precision"]: name for name, entry in self.files.items() if "precision" in entry}

    def model_path(self, precision: str = "fp32") -> Path:
        """The ONNX file of a precision; one that is new on this machine is first read in a child process.

        Raises:
            BundleError: The bundle has none of that precision, or it is no usable network.
        """
        models = self.precisions
        if precision not in models:
            raise BundleError(
                f"Bundle {self.path} has no {precision} model, only {', '.join(sorted(models))}: take one of these, or "
                f"export it with --precision {precision}."
            )
        path, size = self.path / models[precision], self.preprocessing
        try_network(path, self.dimension, size.height, size.width, self.files[models[precision]]["sha256"])
        return path

    def samples(self) -> tuple[list[Image], NDArray[np.float32]]:
        """The sample images and their (S, D) fp32 descriptors.

        Raises:
            BundleError: A sample does not decode or the descriptors do not fit.
        """
        try:
            images = _read_samples([self.path / SAMPLES / name for name in self.sample_names])
        except (DataError, OSError) as problem:
            raise BundleError(f"The samples of bundle {self.path} are damaged: {problem} {_REMEDY}") from problem
        shape = (len(images), self.dimension)
        path = self.path / SAMPLES / DESCRIPTORS
        descriptors = np.array(open_array(path, np.dtype(np.float32), shape, BundleError, _REMEDY))
        if not np.isfinite(descriptors).all():
            raise BundleError(f"{path} holds descriptors that are not finite. {_REMEDY}")
        return images, descriptors


def _read_samples(paths: Sequence[Path]) -> list[Image]:
    """The images; their sizes are added up from their headers before one is decoded."""
    contents = [path.read_bytes() for path in paths]
    pixels = 0
    for path, content in zip(paths, contents, strict=True):
        width, height = (int.from_bytes(content[begin : begin + 4], "big") for begin in (16, 20))
        if content[:8] != _PNG or content[12:16] != b"IHDR" or not width * height:
            raise DataError(f"{path} is no PNG image.")
        pixels += width * height
    if pixels > _MAX_SAMPLE_PIXELS:
        raise DataError(f"They have {pixels} pixels together, more than {_MAX_SAMPLE_PIXELS}.")
    return [decode_image(content, str(path)) for path, content in zip(paths, contents, strict=True)]


def compute_model_id(
    weights: Mapping[str, NDArray[Any]], architecture: Mapping[str, Any], preprocessing: Preprocessing
) -> str:
    """Hex SHA-256 over the named fp32 weights (any order), the architecture and the preprocessing."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    description = {"architecture": dict(architecture), "preprocessing": preprocessing.to_dict()}
    digest.update(json.dumps(description, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def write_bundle(
    folder: str | Path,
    onnx: bytes | Path,
    *,
    model_id: str,
    method: str,
    preprocessing: Preprocessing,
    architecture: Mapping[str, Any],
    training: Mapping[str, Any],
    sample_images: Sequence[Image],
    sample_descriptors: NDArray[np.float32],
    recall: Mapping[str, Any] | None = None,
    low_precision: Mapping[str, bytes] | None = None,
    default_precision: str = "fp32",
    replace: bool = False,
) -> Bundle:
    """Write a bundle aside and rename it into place: it is there whole or not at all.

    Args:
        folder: The bundle's folder.
        onnx: The fp32 network, as bytes or as a file to copy: input (batch, 3, height, width) float32
            normalised, output (batch, D) float32 of unit rows, batch dynamic.
        model_id: From `compute_model_id`.
        method: How the network was trained.
        preprocessing: What brings an image to the network's input.
        architecture: Network configuration, plain values.
        training: Data, commit, seed and what else tells where the weights come from, plain values.
        sample_images: A few RGB images, any sizes; stored without loss.
        sample_descriptors: Their (S, D) float32 descriptors by the original network.
        recall: Precision → recall where it was measured.
        low_precision: Precision (``fp16``, ``int8``) → the same network in it.
        default_precision: What engines take that are not asked for another.
        replace: Replace an existing bundle; without it that is an error.

    Raises:
        BundleError: The samples do not fit together, or ``folder`` exists.
    """
    if not sample_images or sample_descriptors.ndim != 2 or len(sample_images) != len(sample_descriptors):
        raise BundleError(
            f"A bundle needs samples: {len(sample_images)} images and descriptors {sample_descriptors.shape} given."
        )
    with atomic_folder(folder, replace=replace) as aside:
        if isinstance(onnx, bytes):
            (aside / MODEL).write_bytes(onnx)
        else:
            shutil.copyfile(onnx, aside / MODEL)
        precisions = {MODEL: "fp32"} | {f"model.{name}.onnx": name for name in low_precision or {}}
        for name, network in (low_precision or {}).items():
            (aside / f"model.{name}.onnx").write_bytes(network)
        names = _write_samples(aside / SAMPLES, sample_images, sample_descriptors)
        written = [
            *(aside / name for name in precisions),
            *(aside / SAMPLES / name for name in [*names, DESCRIPTORS]),
        ]
        files = {
            path.relative_to(aside).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in written
        }
        for name, precision in precisions.items():
            files[name]["precision"] = precision
        manifest = {
            "format": FORMAT,
            "model_id": model_id,
            "method": method,
            "dimension": int(sample_descriptors.shape[1]),
            "preprocessing": preprocessing.to_dict(),
            "architecture": dict(architecture),
            "training": dict(training),
            "recall": dict(recall or {}),
            "default_precision": default_precision,
            "samples": {"count": len(names), "images": names},
            "files": files,
        }
        write_sealed(aside / MANIFEST, manifest)
        load_bundle(aside)
    return load_bundle(folder)


def _write_samples(folder: Path, images: Sequence[Image], descriptors: NDArray[np.float32]) -> list[str]:
    folder.mkdir()
    names = [f"{number:04d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    np.save(folder / DESCRIPTORS, np.asarray(descriptors, np.float32), allow_pickle=False)
    return names


def load_bundle(folder: str | Path, verify: bool = False) -> Bundle:
    """Read a bundle and check its files before anything else reads them: sizes, and checksums of what is new here.

    Args:
        folder: The bundle's folder.
        verify: Compare all checksums, whatever was checked before.

    Raises:
        BundleError: Missing, truncated, altered, a link to elsewhere, of another format version, or incomplete; names
            the file and the remedy.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        hint = " (it is a map: give the bundle that built it)" if (folder / "map.yaml").is_file() else ""
        state = f"has no {MANIFEST}{hint}" if folder.is_dir() else "is no folder"
        raise BundleError(f"There is no model bundle at {folder}: it {state}. Give a folder that `vgssl export` wrote.")
    require_inside(folder, folder / MANIFEST, BundleError, _REMEDY)
    manifest = read_yaml(folder / MANIFEST, BundleError, "a bundle's manifest")
    bundle = _from_manifest(folder, manifest)
    for name, entry in bundle.files.items():
        require_inside(folder, folder / name, BundleError, _REMEDY)
        require_unaltered(folder / name, entry["bytes"], entry["sha256"], BundleError, _REMEDY, verify)
    return bundle


def _from_manifest(folder: Path, manifest: dict[str, Any]) -> Bundle:
    where = folder / MANIFEST
    version = manifest.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "Update vgssl_ros, or export the bundle with this version." if newer else _REMEDY
        raise BundleError(f"{where} has format version {version!r:.40}; this vgssl_ros reads {FORMAT}. {remedy}")
    if SEAL in manifest:  # bundles of the first releases have none
        require_seal(where, manifest, BundleError, _REMEDY)
    try:
        bundle = Bundle(
            path=folder,
            model_id=_checked(manifest, "model_id", str, bool),
            method=_checked(manifest, "method", str, bool),
            dimension=_checked(manifest, "dimension", int, lambda value: 0 < value <= _MAX_DIMENSION),
            preprocessing=Preprocessing.from_dict(_checked(manifest, "preprocessing", dict)),
            architecture=_checked(manifest, "architecture", dict),
            training=_checked(manifest, "training", dict),
            recall=_checked(manifest, "recall", dict),
            files=_checked(manifest, "files", dict, _are_files),
            sample_names=tuple(_checked(_checked(manifest, "samples", dict), "images", list, _are_names)),
            default_precision=_checked({"default_precision": "fp32", **manifest}, "default_precision", str),
        )
        if bundle.preprocessing.width * bundle.preprocessing.height > _MAX_INPUT_PIXELS:
            raise BundleError(f"preprocessing asks for images of more than {_MAX_INPUT_PIXELS} pixels.")
    except (DataError, BundleError) as problem:
        raise BundleError(f"{where} is damaged: {problem} {_REMEDY}") from problem
    needed = [f"{SAMPLES}/{name}" for name in (*bundle.sample_names, DESCRIPTORS)]
    if missing := [name for name in (MODEL, *needed) if name not in bundle.files]:
        raise BundleError(f"{where} is damaged: it lists no checksum of {', '.join(missing)}. {_REMEDY}")
    if bundle.default_precision not in {"bf16", *bundle.precisions}:
        raise BundleError(f"{where} is damaged: it has no {bundle.default_precision} model, its default. {_REMEDY}")
    if sum(bundle.files[name]["bytes"] for name in needed) > _MAX_SAMPLES_BYTES:
        raise BundleError(f"{where} is damaged: its samples have more than {_MAX_SAMPLES_BYTES} bytes. {_REMEDY}")
    return bundle


def _checked(values: Mapping[str, Any], key: str, kind: type, valid: Any = lambda value: True) -> Any:
    """The value of a key, if it is of its kind and valid."""
    value = values.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        raise BundleError(f"{key!r} is {str(value)[:80]!r}.")
    return value


def _are_names(names: list[Any]) -> bool:
    plain = all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_\-]+\.png", name) for name in names)
    return plain and 0 < len(names) <= _MAX_SAMPLES


def _are_files(files: dict[Any, Any]) -> bool:
    """Whether every name stays inside the folder and every entry has its size and checksum."""
    pattern = r"(samples/)?[A-Za-z0-9_\-][A-Za-z0-9_\-.]*"
    return all(
        isinstance(name, str)
        and re.fullmatch(pattern, name)
        and isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256")))
        and isinstance(entry.get("precision", ""), str)
        for name, entry in files.items()
    )
