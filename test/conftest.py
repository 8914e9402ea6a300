"""Fixtures that every test file shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

#: `make soak` runs the same tests in full: long loops, thousands of mutations, many kills.
SOAK = os.environ.get("VGSSL_SOAK") == "1"
settings.register_profile("reduced", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("soak", max_examples=1000, deadline=None)
settings.load_profile("soak" if SOAK else "reduced")


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether the tests run in full."""
    return SOAK


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings; tests that need it skip where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not at {folder}")
    return folder
