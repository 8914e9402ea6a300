"""A self-contained HTML page: opens offline in any browser, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jinja2

from vgssl_core.imaging import Image
from vgssl_core.storage import atomic_file


@dataclass(frozen=True)
class Tile:
    """One headline figure.

    Attributes:
        label: What it is.
        value: The figure with its unit.
        detail: One line below it.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Retrieval:
    """A query beside the map image that it was matched with.

    Attributes:
        query, match: The two pictures.
        caption: Distance in metres and whatever else tells the case.
        right: Whether the match lies within the positive radius.
    """

    query: Image
    match: Image
    caption: str
    right: bool


@dataclass(frozen=True)
class Section:
    """A part of the page, shown in the order of its fields.

    Attributes:
        title, text: Heading and one paragraph.
        figures: SVG texts from `vgssl_core.evaluation.figures`.
        table: Rows of cells, the first of them the header.
        retrievals: Pictures.
    """

    title: str
    text: str = ""
    figures: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    retrievals: Sequence[Retrieval] = field(default=())


def write_report(path: str | Path, title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> Path:
    """Write the page in one atomic step.

    Args:
        path: The HTML file.
        title: Heading of the page.
        lead: One sentence below it: what was run on what.
        tiles: Headline figures.
        sections: The parts.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["data_uri"] = _data_uri
    page = environment.get_template("report.html.j2").render(title=title, lead=lead, tiles=tiles, sections=sections)
    path = Path(path)
    with atomic_file(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def _data_uri(image: Image) -> str:
    """A picture as an inline JPEG, at most 480 pixels wide."""
    height, width = image.shape[:2]
    if width > 480:
        image = cv2.resize(image, (480, round(height * 480 / width)), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
