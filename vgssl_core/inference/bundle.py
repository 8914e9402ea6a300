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

from vgssl_core.errors import BundleError, DataError
from vgssl_core.imaging import Image, Preprocessing, read_image
from vgssl_core.storage import atomic_folder, read_yaml, sha256, write_yaml

#: Version of the folder's layout; a reader refuses any other.
FORMAT = 1
MANIFEST = "bundle.yaml"
MODEL = "model.onnx"
SAMPLES = "samples"
_REMEDY = "Export it again with `vgssl export RUN --out BUNDLE`, or copy it again whole."
_MAX_DIMENSION = 65536
_MAX_SAMPLES = 1000


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
        sample_names: Files below ``samples/`` whose descriptors are in ``samples/descriptors.npy``.
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

    def model_path(self, precision: str = "fp32") -> Path:
        """The ONNX file of a precision.

        Raises:
            BundleError: The bundle has none of that precision.
        """
        models = {entry["precision"]: name for name, entry in self.files.items() if "precision" in entry}
        if precision not in models:
            raise BundleError(f"Bundle {self.path} has no {precision} model, only {', '.join(sorted(models))}.")
        return self.path / models[precision]

    def samples(self) -> tuple[list[Image], NDArray[np.float32]]:
        """The sample images and their (S, D) fp32 descriptors.

        Raises:
            BundleError: A sample does not decode or the descriptors do not fit.
        """
        try:
            images = [read_image(self.path / SAMPLES / name) for name in self.sample_names]
            descriptors = np.load(self.path / SAMPLES / "descriptors.npy", allow_pickle=False)
        except (DataError, OSError, ValueError, EOFError) as problem:
            raise BundleError(f"The samples of bundle {self.path} are damaged: {problem} {_REMEDY}") from problem
        if descriptors.shape != (len(images), self.dimension) or descriptors.dtype != np.float32:
            raise BundleError(
                f"{self.path / SAMPLES / 'descriptors.npy'} holds {descriptors.dtype} {descriptors.shape} instead of "
                f"float32 {(len(images), self.dimension)}. {_REMEDY}"
            )
        return images, descriptors


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
        names = _write_samples(aside / SAMPLES, sample_images, sample_descriptors)
        written = [aside / MODEL, *(aside / SAMPLES / name for name in [*names, "descriptors.npy"])]
        files = {
            path.relative_to(aside).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in written
        }
        files[MODEL]["precision"] = "fp32"
        manifest = {
            "format": FORMAT,
            "model_id": model_id,
            "method": method,
            "dimension": int(sample_descriptors.shape[1]),
            "preprocessing": preprocessing.to_dict(),
            "architecture": dict(architecture),
            "training": dict(training),
            "recall": dict(recall or {}),
            "samples": {"count": len(names), "images": names},
            "files": files,
        }
        write_yaml(aside / MANIFEST, manifest)
        load_bundle(aside)
    return load_bundle(folder)


def _write_samples(folder: Path, images: Sequence[Image], descriptors: NDArray[np.float32]) -> list[str]:
    folder.mkdir()
    names = [f"{number:04d}.png" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    np.save(folder / "descriptors.npy", np.asarray(descriptors, np.float32), allow_pickle=False)
    return names


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and check every file's size and sha256 before anything else reads it.

    Raises:
        BundleError: Missing, truncated, altered, of another format version, or incomplete; names the file and
            the remedy.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        hint = " (it is a map: give the bundle that built it)" if (folder / "map.yaml").is_file() else ""
        state = f"has no {MANIFEST}{hint}" if folder.is_dir() else "is no folder"
        raise BundleError(f"There is no model bundle at {folder}: it {state}. Give a folder that `vgssl export` wrote.")
    manifest = read_yaml(folder / MANIFEST, BundleError, "a bundle's manifest")
    bundle = _from_manifest(folder, manifest)
    for name, entry in bundle.files.items():
        _check_file(folder / name, entry)
    return bundle


def _from_manifest(folder: Path, manifest: dict[str, Any]) -> Bundle:
    where = folder / MANIFEST
    version = manifest.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "Update vgssl_ros, or export the bundle with this version." if newer else _REMEDY
        raise BundleError(f"{where} has format version {version!r}; this vgssl_ros reads {FORMAT}. {remedy}")
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
        )
    except (DataError, BundleError) as problem:
        raise BundleError(f"{where} is damaged: {problem} {_REMEDY}") from problem
    needed = [f"{SAMPLES}/{name}" for name in (*bundle.sample_names, "descriptors.npy")]
    if missing := [name for name in (MODEL, *needed) if name not in bundle.files]:
        raise BundleError(f"{where} is damaged: it lists no checksum of {', '.join(missing)}. {_REMEDY}")
    return bundle


def _checked(values: Mapping[str, Any], key: str, kind: type, valid: Any = lambda value: True) -> Any:
    """The value of a key, if it is of its kind and valid."""
    value = values.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        raise BundleError(f"{key!r} is {str(value)[:80]!r}.")
    return value


def _are_names(names: list[Any]) -> bool:
    plain = all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_\-]+\.(png|jpg)", name) for name in names)
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


def _check_file(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing. {_REMEDY}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise BundleError(f"{path} has {size} bytes instead of {entry['bytes']}: it is truncated or altered. {_REMEDY}")
    if sha256(path) != entry["sha256"]:
        raise BundleError(f"{path} does not match its checksum: it is damaged or altered. {_REMEDY}")
