"""Write a network as a model bundle: ``python -m training.export RUN --out BUNDLE``.

Networks of others: ``python -m training.export --hub OWNER/NAME --model FUNCTION --trust --width 322 --height 322
--images DIR --out BUNDLE``, and checkpoints of the reference implementation: ``--reference FILE --images DIR``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vgssl_core.command_line import run
from vgssl_core.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from vgssl_core.models.exportable import Exportable


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
    samples: int = 4
    replace: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print the bundle's name and how well it agrees."""
    return run(_export, ExportConfig, arguments, "vgssl export", ("run",))


def _export(config: ExportConfig) -> None:
    from vgssl_core.inference.bundle import write_bundle
    from vgssl_core.models import model_id
    from vgssl_core.models.onnx_export import export_onnx, verified_descriptors

    if config.out.exists() and not config.replace and (not config.out.is_dir() or any(config.out.iterdir())):
        raise BundleError(f"{config.out} exists already: give another --out, or --replace true.")
    source = _source(config)
    onnx = export_onnx(source.network, source.preprocessing)
    descriptors, cosine = verified_descriptors(onnx, source.network, source.preprocessing, source.images)
    count = max(1, min(config.samples, len(source.images)))
    bundle = write_bundle(
        config.out,
        onnx,
        model_id=model_id(source.network, source.preprocessing),
        method=source.method,
        preprocessing=source.preprocessing,
        architecture=source.network.config.architecture(),
        training=source.training,
        sample_images=source.images[:count],
        sample_descriptors=descriptors[:count],
        recall={"fp32": source.recall} if source.recall else {},
        replace=config.replace,
    )
    size_mib = len(onnx) / 2**20
    print(f"exported: {config.out} (model {bundle.model_id[:12]}, {bundle.dimension} dimensions, {size_mib:.1f} MiB)")
    print(f"ONNX Runtime agrees with torch on {len(source.images)} real images: cosine >= {cosine:.6f}")


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
    if config.pca:
        places = read_place_set(manifest["data"]["train"], "train")
        compact(network, preprocessing, [*places.database.paths, *places.queries.paths], config.pca)
        recall = {}  # it was measured without the PCA
    return Exportable(network, preprocessing, manifest["method"], training, images, recall)


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
