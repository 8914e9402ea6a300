"""Tables of benchmarks in Markdown, with the machine that they were measured on."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from vgssl_core.evaluation.grid_table import replace_section
from vgssl_core.inference.cpu import cpu_name


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def machine(threads: int, *packages: str) -> str:
    """One line: CPU, cores, threads and versions of packages."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{cpu_name()}, {os.cpu_count()} cores, {threads} threads; {versions}"


def publish(text: str, docs: Path | None, section: str) -> None:
    """Print, and put it into a document's section where one is given."""
    print(text)
    if docs is not None:
        replace_section(docs, section, text)
