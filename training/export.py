"""Write a trained network as a model bundle: ``python -m training.export RUN --out BUNDLE``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vgssl_core.command_line import run
from vgssl_core.errors import BundleError


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained network as a model bundle, checked against torch on real images.

    Attributes:
        run: Run folder of a training.
        out: Bundle folder to write.
        samples: Images that stay in the bundle with their descriptors, to test engines on the robot.
        replace: Replace a bundle that is there already.
    """

    run: Path
    out: Path
    samples: int = 4
    replace: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print the bundle's name and how well it agrees."""
    return run(_export, ExportConfig, arguments, "vgssl export", ("run",))


def _export(config: ExportConfig) -> None:
    from vgssl_core.geopair.run_folder import load_run, run_recall, sample_images
    from vgssl_core.inference.bundle import write_bundle
    from vgssl_core.models import model_id
    from vgssl_core.models.onnx_export import export_onnx, verified_descriptors

    if config.out.exists() and not config.replace and (not config.out.is_dir() or any(config.out.iterdir())):
        raise BundleError(f"{config.out} exists already: give another --out, or --replace true.")
    network, preprocessing, manifest = load_run(config.run)
    images = sample_images(config.run)
    onnx = export_onnx(network, preprocessing)
    descriptors, cosine = verified_descriptors(onnx, network, preprocessing, images)
    count = max(1, min(config.samples, len(images)))
    recall = run_recall(config.run)
    bundle = write_bundle(
        config.out,
        onnx,
        model_id=model_id(network, preprocessing),
        method=manifest["method"],
        preprocessing=preprocessing,
        architecture=network.config.architecture(),
        training={"data": manifest["data"], "seed": manifest["seed"], **manifest["versions"]},
        sample_images=images[:count],
        sample_descriptors=descriptors[:count],
        recall={"fp32": recall} if recall else {},
        replace=config.replace,
    )
    size_mib = len(onnx) / 2**20
    print(f"exported: {config.out} (model {bundle.model_id[:12]}, {bundle.dimension} dimensions, {size_mib:.1f} MiB)")
    print(f"ONNX Runtime agrees with torch on {len(images)} real images: cosine >= {cosine:.6f}")


if __name__ == "__main__":
    sys.exit(main())
