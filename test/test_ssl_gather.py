"""Rows of several processes where there is one; `test_ssl_two_processes.py` has the rest."""

from __future__ import annotations

import torch

from vgssl_core.ssl.gather import first_row, gathered, process_count


def check_identity() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert gathered(x) is x and first_row(x) == 0 and process_count() == 1


def test_rows_stay_as_they_are_without_a_process_group() -> None:
    check_identity()


def test_rows_stay_as_they_are_in_a_group_of_one(one_process: None) -> None:
    check_identity()
