"""Places for one item each: the newest replaces what nobody took, and one worker thread takes them in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Hands the newest item of each source from a callback, which must not wait, to a worker, which may."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: dict[Hashable, Item] = {}
        self._closed = False

    def put(self, item: Item, source: Hashable = None) -> bool:
        """Store the newest item of a source without waiting; whether it replaced one that nobody took."""
        with self._changed:
            overwrites = source in self._items
            # What is replaced keeps its place in the queue, so that a fast source does not starve the others.
            self._items[source] = item
            self._changed.notify()
            return overwrites

    def take(self) -> Item | None:
        """Wait for an item and take that of the source which waits longest; None once the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if self._closed:
                return None
            return self._items.pop(next(iter(self._items)))

    def clear(self) -> None:
        """Drop what nobody took."""
        with self._changed:
            self._items.clear()

    @property
    def is_closed(self) -> bool:
        """Whether the worker is to end: what it has in work is no longer wanted."""
        return self._closed

    def close(self) -> None:
        """Wake the worker and let it end; what was not taken is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Worker(Generic[Item]):
    """One thread that works on the newest item again and again, until it is stopped.

    Args:
        slot: Where items come from.
        work: Called with each item; it must not raise.
        name: Of the thread.
    """

    def __init__(self, slot: LatestSlot[Item], work: Callable[[Item], None], name: str) -> None:
        self._slot = slot
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Close the slot and wait for the item in work; whether the thread has ended."""
        self._slot.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._slot.take()) is not None:
            self._work(item)
