"""Rows of several processes where there is one; `test_ssl_two_processes.py` has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from vgssl_core.ssl.gather import first_row, gathered, process_count


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def check_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gathered(x) is x and first_row(x) == 0 and process_count() == 1


def test_rows_stay_as_they_are_without_a_process_group() -> None:
    check_identity()


def test_rows_stay_as_they_are_in_a_group_of_one(one_process: None) -> None:
    check_identity()
