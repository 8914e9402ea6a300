"""Small valid inputs for tests, made without torch: a bundle, pictures, a place set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vgssl_core import geodesy
from vgssl_core.imaging import Image, Preprocessing
from vgssl_core.inference.bundle import Bundle, compute_model_id, write_bundle
from vgssl_core.places.names import PlaceName

#: Where the tiny place sets lie.
DATUM = geodesy.LocalFrame(50.0, 14.4, 200.0)


def picture(seed: int, width: int = 64, height: int = 48) -> Image:
    """A smooth random RGB picture: equal seeds look alike at any size, others do not."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def network(projection: NDArray[np.float32], preprocessing: Preprocessing) -> bytes:
    """ONNX network: average over 4x4 cells, subtract the mean, project, unit length; dynamic batch."""
    size = preprocessing.height, preprocessing.width
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["cells"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "projection"], ["projected"]),
        helper.make_node("LpNormalization", ["projected"], ["descriptor"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, *size])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["batch", projection.shape[1]])],
        [numpy_helper.from_array(projection, "projection")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def projection(dimension: int, preprocessing: Preprocessing, seed: int) -> NDArray[np.float32]:
    """Random weights of `network`."""
    cells = 3 * (preprocessing.height // 4) * (preprocessing.width // 4)
    return np.random.default_rng(seed).standard_normal((cells, dimension)).astype(np.float32)


def reference_descriptors(
    images: list[Image], weights: NDArray[np.float32], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """What `network` computes, by numpy."""
    height, width = preprocessing.height // 4, preprocessing.width // 4
    cells = np.stack([preprocessing(image).reshape(3, height, 4, width, 4).mean((2, 4)).ravel() for image in images])
    projected = (cells - cells.mean(1, keepdims=True)) @ weights
    return (projected / np.linalg.norm(projected, axis=1, keepdims=True)).astype(np.float32)


def make_bundle(
    folder: Path,
    dimension: int = 32,
    seed: int = 0,
    width: int = 32,
    height: int = 24,
    change: Callable[[bytes], bytes] = lambda network: network,
) -> Bundle:
    """A valid bundle whose descriptors tell `picture`s apart; ``change`` makes another network that gives the same."""
    preprocessing = Preprocessing(width, height)
    weights = projection(dimension, preprocessing, seed)
    images = [picture(number) for number in (1001, 1002, 1003)]
    architecture = {"backbone": "tiny", "descriptor_dim": dimension}
    return write_bundle(
        folder,
        change(network(weights, preprocessing)),
        model_id=compute_model_id({"projection": weights}, architecture, preprocessing),
        method="tiny",
        preprocessing=preprocessing,
        architecture=architecture,
        training={"data": "none", "seed": seed},
        sample_images=images,
        sample_descriptors=reference_descriptors(images, weights, preprocessing),
    )


def make_place_set(
    root: Path, count: int = 6, step_m: float = 30.0, queries: int = 2, split: str | None = None, local: bool = False
) -> Path:
    """A place set along a street to the east: image i shows ``picture(i)`` and looks east; returns ``root``."""
    folder = root / "images" / split if split else root / "images"
    for part, numbers in (("database", range(count)), ("queries", range(queries))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            latitude, longitude, altitude = DATUM.to_wgs84([number * step_m, 0.0, 0.0])
            zone, letter = geodesy.utm_zone(float(latitude), float(longitude))
            east, north = geodesy.wgs84_to_utm(latitude, longitude, zone, letter)
            name = PlaceName(float(east), float(north), zone, letter, heading_deg=90.0, altitude_m=float(altitude))
            if local:
                name = PlaceName(number * step_m, 0.0, heading_deg=90.0)
            image = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / part / name.format()), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return root


def table_row(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")]
