"""Write a network as a model bundle: ``python -m training.export RUN --out BUNDLE``.

Networks of others: ``python -m training.export --hub OWNER/NAME --model FUNCTION --trust --width 322 --height 322
--images DIR --out BUNDLE``, and checkpoints of the reference implementation: ``--reference FILE --images DIR``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vgssl_core.command_line import run
from vgssl_core.errors import BundleError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vgssl_core.inference import Bundle
    from vgssl_core.models.exportable import Exportable


Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ExportConfig:
    """Write a network as a model bundle, checked on real images: of a RUN, of --hub (others'), or of --reference.

    Attributes:
        run: Run folder of a training.
        out: Bundle folder to write.
        pca: With RUN, trained with --head none: a PCA-whitened descriptor of that length, fitted on the run's training
            images; 0 exports the network as it is.
        hub: GitHub repository OWNER/NAME[:REF] or local folder with a hubconf.py that maps an image to a vector. Its
            code runs with your rights.
        model: With --hub: the function of hubconf.py that makes the network.
        hub_options: With --hub: keyword arguments of that function.
        checkpoint: With --hub: fill the network with these weights (safetensors, or a torch state dict).
        trust: With --hub: you have read that code, or trust its authors, and let it run.
        reference: Checkpoint of the reference implementation of VG-SSL (ResNet or DeiT).
        width: With --hub or --reference: network input in pixels; 0 takes 640 for a reference ResNet.
        height: See width; 480.
        mean: With --hub: per-channel mean of its training images, scaled to [0, 1].
        std: With --hub: per-channel standard deviation.
        images: With --hub or --reference: folder or place set of real images that the export is checked on.
        precision: The precisions that the bundle holds, of fp32, fp16 and int8; fp32 is always there. fp16 is for
            GPUs, int8 for CPUs and GPUs.
        calibration: With int8: folder or place set of images like the robot's, from which scales are taken. A RUN has
            its own training images.
        calibration_images: So many of them, evenly spread.
        data: Place set on which every precision is measured.
        split: Which split of it, where it has splits.
        default_precision: What engines take that are not asked for another. int8 is refused where it costs more than
            one point of Recall@1 on --data.
        samples: Images that stay in the bundle with their descriptors, to test engines on the robot.
        replace: Replace a bundle that is there already.
    """

    out: Path
    run: Path | None = None
    pca: int = 0
    hub: str = ""
    model: str = ""
    hub_options: dict[str, bool | int | float | str] = field(default_factory=dict)
    checkpoint: Path | None = None
    trust: bool = False
    reference: Path | None = None
    width: int = 0
    height: int = 0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    images: Path | None = None
    precision: list[Precision] = field(default_factory=lambda: ["fp32"])
    calibration: Path | None = None
    calibration_images: int = 128
    data: Path | None = None
    split: Literal["train", "val", "test"] = "val"
    default_precision: Precision = "fp32"
    samples: int = 4
    replace: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print the bundle's name and how well it agrees."""
    return run(_export, ExportConfig, arguments, "vgssl export", ("run",))


def _export(config: ExportConfig) -> None:
    from vgssl_core.models.onnx_export import export_onnx, verified_descriptors
    from vgssl_core.models.precisions import low_precisions

    _check(config)
    source = _source(config)
    calibration = _calibration(config, source) if "int8" in config.precision else []
    onnx = export_onnx(source.network, source.preprocessing)
    descriptors, cosine = verified_descriptors(onnx, source.network, source.preprocessing, source.images)
    low = low_precisions(onnx, config.precision, source.preprocessing, calibration)
    recall = {"fp32": source.recall} if source.recall else {}
    if config.data is not None:
        recall = _measured(config, source, onnx, low, descriptors)
    bundle = _written(config, config.out, source, onnx, low, descriptors, recall)
    size_mib = len(onnx) / 2**20
    print(f"exported: {config.out} (model {bundle.model_id[:12]}, {bundle.dimension} dimensions, {size_mib:.1f} MiB)")
    print(f"ONNX Runtime agrees with torch on {len(source.images)} real images: cosine >= {cosine:.6f}")
    for name, network in low.items():
        print(f"{name}: {len(network) / 2**20:.1f} MiB{' (default)' if name == config.default_precision else ''}")


def _check(config: ExportConfig) -> None:
    """Refuse settings that cannot work before anything is computed."""
    from vgssl_core.models.precisions import check_default

    if config.out.exists() and not config.replace and (not config.out.is_dir() or any(config.out.iterdir())):
        raise BundleError(f"{config.out} exists already: give another --out, or --replace true.")
    if config.default_precision not in ["fp32", *config.precision]:
        raise ConfigError(f"--default_precision {config.default_precision} needs it among --precision.")
    if config.calibration_images < 1:
        raise ConfigError(f"--calibration_images {config.calibration_images}: give at least 1.")
    if config.data is None:
        check_default(config.default_precision, {})  # nothing will be measured


def _calibration(config: ExportConfig, source: Exportable) -> list[Path]:
    """The images that int8 takes its scales from."""
    from vgssl_core.models.exportable import image_paths, spread

    if config.calibration is not None:
        return spread(image_paths(config.calibration, "--calibration"), config.calibration_images)
    if not source.image_paths:
        raise ConfigError("--precision int8 needs --calibration DIR, images like the robot's.")
    return spread(source.image_paths, config.calibration_images)


def _measured(
    config: ExportConfig, source: Exportable, onnx: bytes, low: dict[str, bytes], descriptors: NDArray[np.float32]
) -> dict[str, Any]:
    """Recall of every precision on ``--data``, printed; for the manifest."""
    from vgssl_core.evaluation.precisions import measure_precisions
    from vgssl_core.models.precisions import check_default
    from vgssl_core.places import read_place_set

    assert config.data is not None
    place_set = read_place_set(config.data, config.split)
    with tempfile.TemporaryDirectory() as folder:
        _written(config, Path(folder) / "bundle", source, onnx, low, descriptors, {})
        measured = measure_precisions(Path(folder) / "bundle", place_set)
    for name, metrics in measured.items():
        print(f"{name}: {metrics.line()} ({metrics.protocol})" if name == "fp32" else f"{name}: {metrics.line()}")
    recall = {name: metrics.recall for name, metrics in measured.items()}
    check_default(config.default_precision, recall)
    return {name: {str(n): round(value, 2) for n, value in values.items()} for name, values in recall.items()}


def _written(
    config: ExportConfig,
    out: Path,
    source: Exportable,
    onnx: bytes,
    low: dict[str, bytes],
    descriptors: NDArray[np.float32],
    recall: dict[str, Any],
) -> Bundle:
    from vgssl_core.inference.bundle import write_bundle
    from vgssl_core.models import model_id

    count = max(1, min(config.samples, len(source.images)))
    return write_bundle(
        out,
        onnx,
        model_id=model_id(source.network, source.preprocessing),
        method=source.method,
        preprocessing=source.preprocessing,
        architecture=source.network.config.architecture(),
        training=source.training,
        sample_images=source.images[:count],
        sample_descriptors=descriptors[:count],
        recall=recall,
        low_precision=low,
        default_precision=config.default_precision,
        replace=config.replace,
    )


def _source(config: ExportConfig) -> Exportable:
    """The network to export, which exactly one of three settings names."""
    given = [name for name in ("run", "hub", "reference") if getattr(config, name)]
    if len(given) != 1:
        what = " and ".join(given) + " are given" if given else "nothing is given"
        raise ConfigError(f"{what}: give one of RUN, --hub and --reference to export.")
    if config.pca and not config.run:
        raise ConfigError(f"--pca {config.pca} is fitted on the training images of a run: give RUN.")
    return {"run": _of_run, "hub": _of_hub, "reference": _of_reference}[given[0]](config)


def _of_run(config: ExportConfig) -> Exportable:
    from vgssl_core.geopair.run_folder import load_run, run_recall, sample_images
    from vgssl_core.models.exportable import Exportable, compact
    from vgssl_core.places import read_place_set

    assert config.run is not None
    network, preprocessing, manifest = load_run(config.run)
    training = {"data": manifest["data"], "seed": manifest["seed"], **manifest["versions"]}
    images, recall = sample_images(config.run), run_recall(config.run)
    paths: list[Path] = []
    if config.pca or ("int8" in config.precision and config.calibration is None):
        places = read_place_set(manifest["data"]["train"], "train")
        paths = [*places.database.paths, *places.queries.paths]
    if config.pca:
        compact(network, preprocessing, paths, config.pca)
        recall = {}  # it was measured without the PCA
    return Exportable(network, preprocessing, manifest["method"], training, images, recall, paths)


def _of_hub(config: ExportConfig) -> Exportable:
    from vgssl_core.imaging import Preprocessing
    from vgssl_core.models.exportable import foreign
    from vgssl_core.models.foreign import ForeignConfig

    if not config.trust:
        raise ConfigError(
            f"--hub {config.hub} is code of others and would run with your rights: read it, or trust its authors, and "
            "add --trust."
        )
    if not config.model or config.images is None or config.width < 1 or config.height < 1:
        raise ConfigError("--hub needs --model FUNCTION, --width W, --height H and --images DIR.")
    preprocessing = Preprocessing(config.width, config.height, config.mean, config.std)
    return foreign(
        ForeignConfig(config.hub, config.model, config.hub_options, config.checkpoint), preprocessing, config.images
    )


def _of_reference(config: ExportConfig) -> Exportable:
    from vgssl_core.models.exportable import reference

    if config.images is None:
        raise ConfigError("--reference needs --images DIR, real images that the export is checked on.")
    assert config.reference is not None
    return reference(config.reference, config.width, config.height, config.images)


if __name__ == "__main__":
    sys.exit(main())
