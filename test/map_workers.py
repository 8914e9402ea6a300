"""Processes that change and read maps, for tests that kill them and let them meet. Run as a script.

``change FOLDER``: reads lines ``ACTION EVENT`` and does each action in a forked child on the maps in FOLDER. The child
kills itself with SIGKILL at the given event, counted over all calls and returns of Python and C functions; 0 lets it
live. Answers with the number of events that the child lived through, and how it ended.

``read MAP``: loads the map again and again and asks it for images of its own until the parent closes the pipe.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
from map_support import make_images

from vgssl_core.geomap import add_images, build_map, compact, load_map, merge_maps, remove_images, slice_map
from vgssl_core.geomap.area import Circle


def act(action: str, folder: Path) -> None:
    """One change of the maps in a folder; each has its own images."""
    images = make_images(20, seed=7)
    {
        "build": lambda: build_map(folder / "a", images.descriptors, "model-a", images.positions, tile_m=1000.0),
        "add": lambda: add_images(folder / "a", images.descriptors, "model-a", images.positions),
        "remove": lambda: remove_images(folder / "a", [3, 15, 31]),
        "compact": lambda: compact(folder / "a", 1000.0),
        "merge": lambda: merge_maps(folder / "a", folder / "b", folder / "new"),
        "slice": lambda: slice_map(folder / "a", folder / "new", Circle(0.0, 0.0, 700.0)),
    }[action]()


def change(folder: Path) -> None:
    """Serve lines until the pipe is closed."""
    assert pyarrow.parquet  # Imported here, so that children need not.
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        action, event = line.split()
        counter[:] = struct.pack("q", 0)
        child = os.fork()
        if child == 0:
            count_down(int(event), counter)
            act(action, folder)
            sys.setprofile(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(struct.unpack("q", counter)[0], os.waitstatus_to_exitcode(status), flush=True)


def count_down(event: int, counter: mmap.mmap) -> None:
    """Count events where the parent sees them, and end at the given one."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        counter[:] = struct.pack("q", seen)
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def read(path: Path) -> None:
    """Hold one version of the map and load new ones; every answer must be right in its own version."""
    held = load_map(path)
    rows = held.descriptors(slice(None))
    expected, loads = held.search(rows, 3), 0
    print("reading", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        geomap = load_map(path)
        some = np.arange(0, len(geomap), 3)
        found = geomap.search(geomap.descriptors(slice(None))[some], 1)
        np.testing.assert_array_equal(found.indices[:, 0], some)
        again = held.search(rows, 3)
        np.testing.assert_array_equal(again.indices, expected.indices)
        np.testing.assert_array_equal(again.distances, expected.distances)
        loads += 1
    print(loads, flush=True)


if __name__ == "__main__":
    {"change": change, "read": read}[sys.argv[1]](Path(sys.argv[2]))
