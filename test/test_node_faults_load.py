"""Faults on one running node that takes JPEGs in simulated time with a slow model: damage, loops, and a fast camera."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import ros_support
from node_support import Listener, compressed
from onnx import helper, numpy_helper
from ros_support import IMAGE_TOPIC, STEP_M, Ros, jpeg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger
from tiny import make_bundle, picture

from vgssl_ros.messages import stamp_ns, to_stamp

COUNT = 5
SECOND = 1_000_000_000
RATE_HZ = 100
#: How long the fast camera runs.
LOAD_S, SOAK_LOAD_S = 2.5, 45.0
#: Side of the square of copies that the slow model works on, and the channels of its convolutions.
_TILES, _CHANNELS = 10, 32


def slowed(network: bytes) -> bytes:
    """The same descriptors to seven digits, some 40 ms later: convolutions of no weight in the end."""
    model, rng = onnx.load_from_string(network), np.random.default_rng(0)
    graph = model.graph
    last = graph.node[-1]
    shapes = {"first": (_CHANNELS, 3, 3, 3), "second": (_CHANNELS,) * 2 + (3, 3), "third": (_CHANNELS,) * 2 + (3, 3)}
    constants = {name: (rng.standard_normal(shape) / 10).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"copies": np.array([1, 1, _TILES, _TILES]), "little": np.float32(1e-9)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    nodes = [helper.make_node("Tile", ["image", "copies"], ["tiled"])]
    for before, name in zip(("tiled", "first_out", "second_out"), shapes, strict=True):
        nodes.append(helper.make_node("Conv", [before, name], [f"{name}_out"], kernel_shape=[3, 3]))
    nodes += [
        helper.make_node("ReduceMean", ["third_out"], ["all"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["all", "little"], ["nothing"]),
        helper.make_node("Add", [last.input[0], "nothing"], ["late"]),
    ]
    last.input[0] = "late"
    before_last = len(graph.node) - 1
    for offset, node in enumerate(nodes):
        graph.node.insert(before_last + offset, node)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def ros() -> Iterator[Ros]:
    with ros_support.ros_node() as node:
        yield node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ros_support.Program]:
    folder = tmp_path_factory.mktemp("load")
    bundle = make_bundle(folder / "bundle", change=slowed).path
    built = ros_support.build_map(folder / "map", bundle, ros_support.write_drive(folder / "drive", COUNT))
    given = {"map_path": built, "bundle_path": bundle, "image_topic": IMAGE_TOPIC, "image_transport": "compressed"}
    given |= {"image_qos": "reliable", "lazy": False, "threads": 1, "threshold": 1e-6, "use_sim_time": True}
    given |= {"filter_speed_mps": 20.0}
    with ros_support.localizer(given) as program:
        program.wait_for("Active")
        yield program
        program.interrupt()
        assert program.end() == 0 and "Traceback" not in program.output, program.output


@pytest.fixture(scope="module")
def listener(ros: Ros, node: ros_support.Program) -> Listener:
    return Listener(ros)


class Player:
    """A player of a bag: a clock, and JPEGs with its time."""

    def __init__(self, ros: Ros, listener: Listener) -> None:
        self._ros, self._listener = ros, listener
        self._clock = ros.node.create_publisher(Clock, "/clock", 10)
        self.images = ros.node.create_publisher(CompressedImage, f"{IMAGE_TOPIC}/compressed", 10)
        ros.wait(
            lambda: self.images.get_subscription_count() and listener.status().get("matched") == "1",
            "a subscription",
        )

    def show(self, data: bytes, now_ns: int) -> None:
        """Set the clock and send an image of this moment."""
        self._clock.publish(Clock(clock=to_stamp(now_ns)))
        self.images.publish(compressed(data, now_ns))

    def answer(self, number: int, now_ns: int) -> float:
        """Number of the picture that stands where the node says that a picture was taken."""
        self.show(jpeg(picture(number)), now_ns)
        heard = self._listener.received["hypotheses"]
        self._ros.wait(lambda: heard and stamp_ns(heard[-1].header.stamp) == now_ns, f"an answer to {now_ns}")
        return heard[-1].poses[0].position.x / STEP_M + (COUNT - 1) / 2


@pytest.fixture(scope="module")
def player(ros: Ros, listener: Listener) -> Player:
    def told() -> str:
        return listener.status().get("message", "")

    ros.wait(lambda: "simulated time without /clock" in told(), "a word about the clock")
    assert "no publisher on" in told()
    player = Player(ros, listener)
    ros.wait(lambda: "/clock" not in told(), "diagnostics that know of the clock")
    return player


def test_a_bag_that_loops_is_answered_from_its_start_again(ros: Ros, listener: Listener, player: Player):
    begin = 1_700_000_000 * SECOND
    stamps = [begin + 2 * SECOND * number for number in range(COUNT)]
    loops = [[player.answer(number, stamp) for number, stamp in enumerate(stamps)] for _ in range(2)]
    # Nothing of the first loop is left in the filter.
    assert loops[1] == pytest.approx(loops[0], abs=0.01)
    assert abs(loops[1][-1] - (COUNT - 1)) < 0.5
    heard = [stamp_ns(item.header.stamp) for item in listener.received["hypotheses"]]
    assert heard == stamps * 2
    # Ages are those of the bag's time, however long ago that was.
    ros.wait(lambda: listener.status().get("processed") == str(2 * COUNT), "the count of answers")
    assert listener.status()["filter_state"] in {"LOST", "CANDIDATE", "LOCALIZED"}
    assert abs(float(listener.status()["age_p50_ms"])) < 2000


def test_damaged_jpegs_are_counted_and_the_next_is_answered(
    ros: Ros, listener: Listener, player: Player, node: ros_support.Program
):
    whole, rng = jpeg(picture(1)), np.random.default_rng(0)
    noise = bytearray(whole)
    noise[2:40] = rng.integers(0, 256, 38, np.uint8).tobytes()
    damaged = [b"", b"no image", whole[:2], whole[: len(whole) // 2], whole[:-2], bytes(noise), b"\x89PNG\r\n\x1a\n"]
    now_ns = 1_700_001_000 * SECOND
    for data in damaged:

        def show(data: bytes = data) -> None:
            nonlocal now_ns
            now_ns += SECOND
            player.show(data, now_ns)

        answer = ros.call(Trigger, "/localizer/localize_once", Trigger.Request(), show)
        assert not answer.success and "does not decode" in answer.message
    listener.diagnostics.clear()
    ros.wait(lambda: int(listener.status().get("undecodable", "0")) >= len(damaged), "the count of damaged images")
    assert "does not decode" in listener.status()["message"] and "Image left out" in node.output
    player.answer(2, now_ns + 60 * SECOND)
    ros.wait(lambda: listener.status()["message"].startswith("answers"), "a node that is well")


def resident_bytes(process: int) -> int:
    """Physical memory of a process."""
    return 4096 * int(Path(f"/proc/{process}/statm").read_text().split()[1])


def test_a_camera_too_fast_for_the_model_gets_fresh_answers_in_flat_memory(
    ros: Ros, listener: Listener, player: Player, node: ros_support.Program, soak: bool
):
    duration_s = SOAK_LOAD_S if soak else LOAD_S
    frames = [jpeg(picture(number)) for number in range(COUNT)]
    begin_ns, begin_s = 1_700_002_000 * SECOND, time.monotonic()
    heard = listener.received["hypotheses"]
    heard.clear()
    latencies_s: list[float] = []
    sent, last_ns, memory = 0, 0, 0

    def now_ns() -> int:
        return begin_ns + int((time.monotonic() - begin_s) * 1e9)

    def play() -> bool:
        """Send what is due and look at what came."""
        nonlocal sent, last_ns, memory
        while sent < (time.monotonic() - begin_s) * RATE_HZ:
            last_ns = now_ns()
            player.show(frames[sent % COUNT], last_ns)
            sent += 1
        while len(latencies_s) < len(heard):
            latencies_s.append((now_ns() - stamp_ns(heard[len(latencies_s)].header.stamp)) / 1e9)
        if not memory and time.monotonic() > begin_s + duration_s / 3:
            memory = resident_bytes(node.process.pid)
        return time.monotonic() > begin_s + duration_s

    ros.wait(play, "the end of the drive")
    assert resident_bytes(node.process.pid) < 1.05 * memory
    ros.wait(lambda: heard and stamp_ns(heard[-1].header.stamp) == last_ns, "an answer to the newest image")
    status = listener.status
    # Both are counted since the start; what is in the slot or in work is neither.
    ros.wait(
        lambda: (
            int(status()["received"])
            == sum(int(status()[name]) for name in ("processed", "overwritten", "undecodable"))
        ),
        "figures that add up",
    )
    figures = status()
    stamps = [stamp_ns(item.header.stamp) for item in heard]
    assert stamps == sorted(set(stamps))
    assert int(figures["overwritten"]) > len(stamps) > 5, figures
    # A queue would make every answer later than the one before. Here it is the image in work, and the next one.
    period_s = duration_s / len(latencies_s)
    assert np.percentile(latencies_s, 95) < 4 * period_s + 0.2, latencies_s
    ros.wait(
        lambda: any("too slow for the camera: " in item.status[0].message for item in listener.diagnostics),
        "a word about the camera",
    )
