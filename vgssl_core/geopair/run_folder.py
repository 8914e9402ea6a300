"""The folder of one training: settings, checkpoints, metrics; and how to read a trained network from it."""

from __future__ import annotations

import contextlib
import csv
import pickle
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from vgssl_core.errors import ConfigError, DataError
from vgssl_core.imaging import Image, Preprocessing, read_image
from vgssl_core.models import DescriptorNet, NetworkConfig, build_network
from vgssl_core.models.initial import RUN_CHECKPOINTS
from vgssl_core.models.initial import RUN_MANIFEST as MANIFEST
from vgssl_core.storage import ASIDE_PREFIX, atomic_file, read_yaml, sweep_unfinished, write_yaml

FORMAT = 1
BEST, LAST = RUN_CHECKPOINTS
METRICS, SAMPLES = "metrics.csv", "samples"
_SAMPLE_COUNT = 8


class RunFolder:
    """Writes a run; every file is replaced in one step, so a kill leaves the older one whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a training was begun here."""
        return (self.path / MANIFEST).is_file()

    def begin(self, manifest: dict[str, Any], samples: Sequence[Path]) -> None:
        """Write the settings and copy a few images that stay with the run for checks of exported models."""
        self.path.mkdir(parents=True, exist_ok=True)
        sweep_unfinished(self.path)
        folder = self.path / SAMPLES
        folder.mkdir(exist_ok=True)
        for number, index in enumerate(np.unique(np.linspace(0, len(samples) - 1, _SAMPLE_COUNT).astype(int))):
            with atomic_file(folder / f"{number:02d}{samples[index].suffix}") as aside:
                shutil.copyfile(samples[index], aside)
        write_yaml(self.path / MANIFEST, manifest)

    @property
    def has_last(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.path / LAST).is_file()

    def discard_without_checkpoint(self) -> None:
        """Remove what `begin` wrote, so that the folder is free again, unless a checkpoint was saved since."""
        if any((self.path / name).is_file() for name in RUN_CHECKPOINTS):
            return
        shutil.rmtree(self.path / SAMPLES, ignore_errors=True)
        for path in (self.path / MANIFEST, self.path / METRICS, *self.path.glob("events.out.tfevents.*")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of the user's lies there
            self.path.rmdir()

    def manifest(self) -> dict[str, Any]:
        """Content of ``run.yaml``."""
        return _manifest(self.path)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Write tensors and plain values as a checkpoint."""
        with atomic_file(self.path / name) as aside:
            torch.save(content, aside)

    def load(self, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            DataError: Missing or damaged.
        """
        return load_checkpoint(self.path / name, device)

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all epochs' figures as CSV."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with atomic_file(self.path / METRICS) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read tensors and plain values; no code in the file is ever run.

    Raises:
        DataError: Missing or damaged.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except OSError as problem:
        raise DataError(f"Cannot read the checkpoint {path}: {problem.strerror or problem}.") from problem
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as problem:
        raise DataError(f"The checkpoint {path} is damaged: train again, or use another one.") from problem
    if not isinstance(content, dict):
        raise DataError(f"{path} is no checkpoint of a run.")
    return content


def load_run(run: str | Path) -> tuple[DescriptorNet, Preprocessing, dict[str, Any]]:
    """The trained network of a run: the best checkpoint, or the last where there is no best.

    Returns:
        The network in evaluation mode, its preprocessing, and the content of ``run.yaml``.

    Raises:
        ConfigError: Not a run folder, or nothing was saved in it yet.
        DataError: A damaged file.
    """
    run = Path(run)
    manifest = _manifest(run)
    path = next((run / name for name in RUN_CHECKPOINTS if (run / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{run} holds no checkpoint yet: train longer, or resume it with --resume true.")
    try:
        network = build_network(NetworkConfig.from_architecture(manifest["network"]))
        content = load_checkpoint(path)
        weights = content.get("network") or {
            key.removeprefix("network."): value
            for key, value in content["method"].items()
            if key.startswith("network.")
        }
        network.load_state_dict(weights)
        preprocessing = Preprocessing.from_dict(manifest["preprocessing"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise DataError(f"{path} and {run / MANIFEST} do not fit together: train again.") from problem
    return network.eval(), preprocessing, manifest


def sample_images(run: str | Path) -> list[Image]:
    """The real images that stay with a run.

    Raises:
        DataError: There is none, or one does not decode.
    """
    folder = Path(run) / SAMPLES
    paths = sorted(path for path in folder.glob("*") if not path.name.startswith(ASIDE_PREFIX))
    if not paths:
        raise DataError(f"{folder} holds no images, which the check of an export needs: train again.")
    return [read_image(path) for path in paths]


def run_recall(run: str | Path) -> dict[str, float]:
    """Recall on validation of the checkpoint that `load_run` gives, by N; empty where it was not measured."""
    best = Path(run) / BEST
    recall = load_checkpoint(best)["recall"] if best.is_file() else {}
    return {str(n): round(float(value), 2) for n, value in recall.items()}


def _manifest(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise ConfigError(f"{run} is no run folder: give the --out of a training.")
    manifest = read_yaml(run / MANIFEST, ConfigError, "the settings of a training run")
    if manifest.get("format") != FORMAT:
        raise ConfigError(f"{run / MANIFEST} has format {manifest.get('format')}, this program reads {FORMAT}.")
    return manifest


def versions() -> dict[str, str | None]:
    """Of the software that trains; the commit where the package runs from a git checkout."""
    here = Path(__file__).resolve().parents[2]
    commit = None
    if (here / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "numpy": np.__version__,
    }
