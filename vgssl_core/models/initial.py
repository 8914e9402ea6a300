"""Weights to start a training from, with other data and a new optimiser: of a run, a checkpoint, or a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from vgssl_core.errors import ConfigError
from vgssl_core.inference.bundle import MANIFEST as BUNDLE_MANIFEST
from vgssl_core.inference.bundle import load_bundle
from vgssl_core.models import reference
from vgssl_core.models.config import NetworkConfig
from vgssl_core.models.filling import Filled, fill
from vgssl_core.models.network import DescriptorNet
from vgssl_core.models.weights import read_tensors
from vgssl_core.storage import read_yaml

#: Files of a run folder: its settings, and its networks, the one to be used first.
RUN_MANIFEST, RUN_CHECKPOINTS = "run.yaml", ("best.pt", "last.pt")
#: Settings that may differ from those that the weights were trained with: an option that matters, such as the number
#: of clusters, shows in the shapes.
_FREE = ("width", "height", "pooling_options")


@dataclass(frozen=True)
class InitialWeights:
    """Weights and what is known of where they come from.

    Attributes:
        kind: What they were read from, in words.
        tensors: By the names of a `DescriptorNet`, or of a timm backbone alone.
        architecture: The network that they belong to, as `NetworkConfig.architecture`; None where a file does not
            tell.
        unknown: Names in the file that are not even known.
    """

    kind: str
    tensors: dict[str, Tensor]
    architecture: Mapping[str, Any] | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Initialisation:
    """What a network was started from.

    Attributes:
        path: Run folder, checkpoint or bundle.
        kind: Which of them, in words.
        filled: What was taken from it.
    """

    path: Path
    kind: str
    filled: Filled

    def __str__(self) -> str:
        parts = [f"{len(self.filled.taken)} weights of {self.kind} {self.path}"]
        parts += [f"{key} brought to this input size" for key in self.filled.resampled]
        parts += [f"new: {_listing(self.filled.kept)}"] if self.filled.kept else []
        parts += [f"not used: {_listing(self.filled.unused)}"] if self.filled.unused else []
        return "; ".join(parts)


def initialise(network: DescriptorNet, path: str | Path) -> Initialisation:
    """Start a network from weights that were trained before, at this or another input size.

    Args:
        network: Changed in place.
        path: Run folder (its best network, else its last), bundle folder, or checkpoint file: of a run, safetensors, a
            torch state dict of the whole network, of a timm backbone alone, or of the reference implementation.

    Raises:
        ConfigError: Nothing of these, or of another architecture than the network; nothing was changed then.
        BundleError: A damaged bundle.
    """
    path = Path(path)
    initial = read_initial(path)
    return Initialisation(path, initial.kind, start(network, initial, f"--init {path}"))


def start(network: DescriptorNet, initial: InitialWeights, source: str) -> Filled:
    """`initialise` from weights that were read already.

    Args:
        network: Changed in place.
        initial: The weights.
        source: What they are, for messages.

    Raises:
        ConfigError: They are of another architecture; nothing was changed then.
    """
    if initial.architecture is not None:
        _check_architecture(network.config, initial.architecture, source)
    filled = fill(network, initial.tensors, source, _grid(network, initial.architecture))
    return dataclasses.replace(filled, unused=(*filled.unused, *initial.unknown))


def read_initial(path: Path) -> InitialWeights:
    """Read a run folder, a bundle folder or a checkpoint file.

    Raises:
        ConfigError, BundleError: See `initialise`.
    """
    if (path / RUN_MANIFEST).is_file():
        return _of_run(path)
    if (path / BUNDLE_MANIFEST).is_file():
        return _of_bundle(path)
    if not path.is_file():
        raise ConfigError(f"--init {path} is no run folder, no bundle and no file: give one of them.")
    tensors = read_tensors(path, "--init")
    if reference.is_reference(tensors):
        return of_reference(tensors, path)
    # A checkpoint that still lies in its run folder belongs to the network that the folder describes.
    beside = path.name in RUN_CHECKPOINTS and (path.parent / RUN_MANIFEST).is_file()
    return InitialWeights("the checkpoint", tensors, _run_architecture(path.parent) if beside else None)


def of_reference(tensors: Mapping[str, Tensor], path: Path) -> InitialWeights:
    """The query encoder of a checkpoint of the reference implementation; see `reference.translate`."""
    found = reference.translate(tensors, path)
    return InitialWeights("the reference checkpoint", found.tensors, found.architecture, found.unknown)


def _of_run(run: Path) -> InitialWeights:
    path = next((run / name for name in RUN_CHECKPOINTS if (run / name).is_file()), None)
    if path is None:
        raise ConfigError(f"--init {run} holds no checkpoint yet: train longer, or give another run.")
    return InitialWeights("the run", read_tensors(path, "--init"), _run_architecture(run))


def _run_architecture(run: Path) -> dict[str, Any]:
    architecture = read_yaml(run / RUN_MANIFEST, ConfigError, "the settings of a training run").get("network")
    if not isinstance(architecture, dict):
        raise ConfigError(f"--init {run / RUN_MANIFEST} does not tell its network: give the checkpoint file itself.")
    return architecture


def _of_bundle(folder: Path) -> InitialWeights:
    """The float32 weights, which lie in the exported network under their names of torch."""
    bundle = load_bundle(folder)
    if "backbone" not in bundle.architecture:
        raise ConfigError(f"--init {folder} holds a foreign network, which cannot be trained on here.")
    model = onnx.load(bundle.model_path(), load_external_data=False)
    tensors = {
        item.name: torch.from_numpy(np.array(numpy_helper.to_array(item)))
        for item in model.graph.initializer
        if item.name.startswith(("backbone.", "pooling.", "head.", "projector."))
    }
    return InitialWeights("the bundle", tensors, bundle.architecture)


def _check_architecture(wanted: NetworkConfig, given: Mapping[str, Any], source: str) -> None:
    """Refuse another network before its tensors are compared, so that the message can name settings."""
    there, here = NetworkConfig.from_architecture(given).architecture(), wanted.architecture()
    differing = [key for key in here if key not in _FREE and there[key] != here[key]]
    if differing:
        theirs, ours = (", ".join(f"{key} {values[key]}" for key in differing) for values in (there, here))
        raise ConfigError(f"{source} has {theirs}; the network to train has {ours}: give the same settings.")


def _grid(network: DescriptorNet, architecture: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Rows and columns of patches at the input size that the weights were trained at, where it is known."""
    patches = getattr(getattr(network.backbone, "model", None), "patch_embed", None)
    size = (architecture or {}).get("height"), (architecture or {}).get("width")
    if patches is None or not all(size):
        return None
    rows, columns = (side // patch for side, patch in zip(size, patches.patch_size, strict=True))
    return rows, columns


def _listing(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
