"""The localizer and its filter over many frames: neither memory nor file handles grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny import DATUM, make_bundle

from vgssl_core.geomap import MapPositions, build_map

IMAGES = 5000
FRAMES, SOAK_FRAMES = 2000, 100_000
PROGRAM = """
import os, sys
import cv2, numpy as np
from vgssl_core.imaging import decode_image, raw_to_rgb
from vgssl_core.localization import open_localizer
from vgssl_core.localization.filter import TemporalFilter

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

localizer = open_localizer(sys.argv[1], threads=1)
followed = TemporalFilter(localizer.geomap, localizer.calibration)
rng = np.random.default_rng(0)
sizes = [(32, 24), (64, 48), (160, 120), (33, 47)]
frames = [cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), size) for size in sizes]
files = [cv2.imencode('.jpg', frame)[1] for frame in frames]

def localize(number):
    choice = number % len(frames)
    if number % 3:
        image = decode_image(files[choice], 'test', localizer.least_size)
    else:
        height, width = frames[choice].shape[:2]
        image = raw_to_rgb(frames[choice].tobytes(), width, height, 'bgr8', 3 * width, False, 'test')
    answer = localizer.localize(image)
    assert answer.hypotheses
    if number % 10 == 0:
        assert followed.update(number * 100_000_000, answer).hypotheses

for number in range(500):
    localize(number)
before, handles = resident(), len(os.listdir('/proc/self/fd'))
highest = before
for number in range(int(sys.argv[2])):
    localize(number)
    if number % 500 == 499:
        highest = max(highest, resident())
print(highest / before, len(os.listdir('/proc/self/fd')) - handles)
"""


def test_memory_and_file_handles_stay_flat_over_many_frames(tmp_path: Path, soak: bool) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    rng = np.random.default_rng(0)
    descriptors = rng.standard_normal((IMAGES, bundle.dimension)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    enu = np.column_stack([rng.uniform(0, 2000, (IMAGES, 2)), np.zeros(IMAGES)])
    latitude, longitude, altitude = DATUM.to_wgs84(enu)
    sources = tuple(str(number) for number in range(IMAGES))
    heading = rng.uniform(0, 360, IMAGES)
    positions = MapPositions(latitude, longitude, altitude, heading, np.arange(IMAGES), sources)
    build_map(tmp_path / "map", descriptors, bundle.model_id, positions, bundle_path=bundle.path)
    # A process of its own: other tests' garbage would blur the figure.
    frames = SOAK_FRAMES if soak else FRAMES
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "map"), str(frames)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    growth, handles = map(float, done.stdout.split())
    assert growth < 1.05
    assert handles == 0
