"""Faults of cameras, maps and people on one running node that takes raw images: it tells of them, and works on."""

from __future__ import annotations

import array
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ros_support
from node_support import Listener, raw
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_support import IMAGE_TOPIC, STEP_M, Ros
from sensor_msgs.msg import Image as RosImage
from std_srvs.srv import Trigger
from tiny import make_bundle, picture

from vgssl_core.geomap.manifest import MANIFEST

COUNT = 6
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture(scope="module")
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


@pytest.fixture(scope="module")
def built_map(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    return ros_support.build_map(folder / "map", tiny_bundle, ros_support.write_drive(folder / "drive", COUNT))


@pytest.fixture(scope="module")
def node(built_map: Path, tiny_bundle: Path) -> Iterator[ros_support.Program]:
    given = {"map_path": built_map, "bundle_path": tiny_bundle, "image_topic": IMAGE_TOPIC, "lazy": False}
    given |= {"image_qos": "reliable", "filter": False, "threshold": 1e-6}
    with ros_support.localizer(given) as program:
        program.wait_for("Active")
        yield program
        program.interrupt()
        assert program.end() == 0 and "Traceback" not in program.output, program.output


class Camera:
    """Sends images to the node and knows what came of them."""

    def __init__(self, ros: Ros, listener: Listener) -> None:
        self._ros, self.listener = ros, listener
        self.stamp = 1000
        self.publisher: Publisher = self.connect()

    def connect(self) -> Publisher:
        """A publisher that the node hears."""
        self.publisher = self._ros.node.create_publisher(RosImage, IMAGE_TOPIC, 10)
        self._ros.wait(
            lambda: self.publisher.get_subscription_count() and self.listener.status().get("matched") == "1",
            "a subscription",
        )
        return self.publisher

    def send(self, image: RosImage) -> int:
        """Send an image under the next stamp, which is returned."""
        self.stamp += 1
        image.header.stamp = raw(0, self.stamp).header.stamp
        self.publisher.publish(image)
        return self.stamp

    def place(self, image: RosImage) -> float:
        """Number of the picture that stands where the node says that an image was taken."""
        stamp, listener = self.send(image), self.listener
        self._ros.wait(lambda: stamp in listener.stamps("hypotheses"), "an answer")
        x_m = listener.received["hypotheses"][-1].poses[0].position.x
        return x_m / STEP_M + (COUNT - 1) / 2

    def told(self, text: str) -> None:
        """Wait for diagnostics that say something."""
        listener = self.listener
        self._ros.wait(lambda: text in listener.status().get("message", ""), f"{text!r}; told {listener.status()}")


@pytest.fixture(scope="module")
def listener(ros: Ros, node: ros_support.Program) -> Listener:
    return Listener(ros)


@pytest.fixture(scope="module")
def camera(ros: Ros, listener: Listener) -> Camera:
    # Best effort never meets a node that wants reliable images; only then comes a camera that does.
    deaf = ros.node.create_publisher(RosImage, IMAGE_TOPIC, BEST_EFFORT)
    # The publisher may be known a moment before the name of its node is.
    cause = "the QoS of /test does not match"
    ros.wait(lambda: cause in listener.status().get("message", ""), "the cause of a silence")
    told = listener.status()
    ros.node.destroy_publisher(deaf)
    assert told["message"].startswith(f"a publisher on {IMAGE_TOPIC} but no frame for ") and told["matched"] == "0"
    assert "set image_qos" in told["message"]
    return Camera(ros, listener)


def message(pixels: np.ndarray, encoding: str, step: int | None = None, big: bool = False) -> RosImage:
    """An image of (height, width, channels), with rows padded to ``step`` bytes."""
    height, width = pixels.shape[:2]
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(height, -1)
    padded = np.full((height, step or rows.shape[1]), 255, np.uint8)
    padded[:, : rows.shape[1]] = rows
    data = array.array("B", padded.tobytes())
    return RosImage(height=height, width=width, encoding=encoding, step=padded.shape[1], is_bigendian=big, data=data)


def in_sixteen_bits(number: int, order: str) -> np.ndarray:
    """A mosaic of 16 bits, in a byte order."""
    image = picture(number)
    mosaic = image[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = image[::2, ::2, 0], image[1::2, 1::2, 2]
    return (mosaic.astype(np.uint16) * 257).astype(f"{order}u2")


def test_padded_rows_byte_orders_and_other_sizes_are_localized_as_what_they_show(camera: Camera):
    # The network takes 32x24 pixels.
    images = {
        "an odd step": (message(picture(4), "rgb8", step=64 * 3 + 5), 4),
        "bgr8": (message(picture(3)[..., ::-1], "bgr8"), 3),
        "big-endian": (message(in_sixteen_bits(1, ">"), "bayer_rggb16", big=True), 1),
        "little-endian": (message(in_sixteen_bits(2, "<"), "bayer_rggb16"), 2),
        "a large image": (message(picture(5, 640, 480), "rgb8"), 5),
        "a small image": (message(picture(1, 16, 12), "rgb8"), 1),
        "a tall image": (message(picture(2, 48, 96), "rgb8"), 2),
        "one pixel, which is nowhere": (message(picture(0, 1, 1), "rgb8"), None),
    }
    for name, (image, number) in images.items():
        place = camera.place(image)
        assert number is None or abs(place - number) < 0.5, name
    # What shows nothing gives no pose.
    assert len(camera.listener.received["pose"]) == len(images) - 1


def test_images_that_cannot_be_are_counted_and_told_and_the_next_is_answered(ros: Ros, camera: Camera):
    # Cut off where a row needs more than there is.
    cut, narrow, large = (message(picture(1), "rgb8") for _ in range(3))
    cut.data, narrow.step, large.width, large.height = cut.data[: len(cut.data) // 2], 64, 2**32 - 1, 2**32 - 1
    bad = {
        "it is cut off": cut,
        "a row is 64 bytes (step) and its pixels need 192": narrow,
        "a row is 192 bytes (step)": large,
        "the image is 0x0 pixels: it is empty": RosImage(encoding="rgb8"),
        "has 0 bytes instead of 9216": RosImage(encoding="rgb8", width=64, height=48, step=192),
        "the encoding '' is not known": message(picture(1), ""),
        "the encoding 'rgb9' is not known. Known are": message(picture(1), "rgb9"),
    }
    status = camera.listener.status
    before = int(status()["undecodable"])
    for reason, image in bad.items():
        request = Trigger.Request()
        answer = ros.call(Trigger, "/localizer/localize_once", request, lambda image=image: camera.send(image))
        assert not answer.success and reason in answer.message
        assert abs(camera.place(raw(3, 0)) - 3) < 0.5
    camera.send(bad.popitem()[1])
    camera.told("the encoding 'rgb9' is not known. Known are")
    told = status()
    assert told["message"] == told["last_error"] and told["failed"] == "0"
    assert int(told["undecodable"]) > before + len(bad)
    assert abs(camera.place(raw(2, 0)) - 2) < 0.5
    camera.told("answers")


def test_parameters_out_of_range_change_nothing(ros: Ros, camera: Camera):
    values = {"altitude_default_sigma_m": -1.0, "prior_radius_m": 0.0, "k": 0, "image_qos": "perhaps", "threads": 1.5}
    wrong = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    results = ros.call(SetParameters, "/localizer/set_parameters", SetParameters.Request(parameters=wrong)).results
    assert all(not item.successful and item.reason for item in results), results
    assert abs(camera.place(raw(1, 0)) - 1) < 0.5


def test_a_map_that_is_replaced_by_a_bad_one_is_refused_and_the_old_one_serves(
    ros: Ros, camera: Camera, built_map: Path, tmp_path: Path
):
    foreign = make_bundle(tmp_path / "bundle", seed=1).path
    drive = ros_support.write_drive(tmp_path / "drive", COUNT)

    def flip(folder: Path) -> None:
        file = next(folder.rglob("descriptors.npy"))
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)

    def of_another_model(folder: Path) -> None:
        shutil.rmtree(folder)
        ros_support.build_map(folder, foreign, drive)

    damages = {
        "damaged|checksum": flip,
        "missing|no such|gone": lambda folder: next(folder.rglob("poses.npy")).unlink(),
        "no map": lambda folder: (folder / MANIFEST).unlink(),
        "another model|built by|of model": of_another_model,
    }
    good = tmp_path / "good"
    built_map.rename(good)
    for words, damage in damages.items():
        shutil.copytree(good, built_map)
        damage(built_map)
        answer = ros.call(Trigger, "/localizer/reload_map", Trigger.Request())
        assert not answer.success and answer.message.startswith("The old map stays: "), answer.message
        assert any(word in answer.message for word in words.split("|")), answer.message
        assert abs(camera.place(raw(4, 0)) - 4) < 0.5
        shutil.rmtree(built_map)
    good.rename(built_map)
    assert ros.call(Trigger, "/localizer/reload_map", Trigger.Request()).success
    assert abs(camera.place(raw(5, 0)) - 5) < 0.5


def test_a_camera_that_stops_is_told_and_when_it_returns_it_is_answered(ros: Ros, camera: Camera):
    camera.told(f"a publisher on {IMAGE_TOPIC} but no frame for ")
    assert camera.listener.status()["message"].endswith("the camera stands still")
    ros.node.destroy_publisher(camera.publisher)
    camera.told(f"no publisher on {IMAGE_TOPIC}: check the topic's name and ROS_DOMAIN_ID")
    camera.listener.diagnostics.clear()
    camera.connect()
    assert abs(camera.place(raw(2, 0)) - 2) < 0.5
    camera.told("answers")
