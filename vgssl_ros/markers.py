"""Hypotheses as RViz and Foxglove show them."""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from vgssl_ros.base_pose import BasePose
from vgssl_ros.messages import to_pose

_TEXT_M, _ARROW_M = 3.0, 5.0


def markers(poses: Sequence[BasePose], accepted: BasePose | None, header: Header) -> MarkerArray:
    """Discs of two standard deviations, headings, and probabilities as text.

    What is accepted is green; the hypotheses go from red to yellow with their probability. Each message replaces
    what the one before has shown.
    """
    shown = [*poses] if accepted is None else [accepted, *poses]
    items = [Marker(header=header, action=Marker.DELETEALL)]
    for number, pose in enumerate(shown):
        red, green, blue = (0.0, 0.8, 0.2) if pose is accepted else (0.9, 0.8 * pose.probability, 0.0)
        items += _markers_of(pose, number, ColorRGBA(r=red, g=green, b=blue, a=1.0), header)
    return MarkerArray(markers=items)


def _markers_of(pose: BasePose, number: int, colour: ColorRGBA, header: Header) -> list[Marker]:
    def marker(kind: int, name: str, size: Vector3, text: str = "") -> Marker:
        return Marker(
            header=header, ns=name, id=number, type=kind, pose=to_pose(pose), scale=size, color=colour, text=text
        )

    width = 4.0 * pose.horizontal_sigma_m
    disc = marker(Marker.CYLINDER, "position", Vector3(x=width, y=width, z=0.1))
    disc.color = ColorRGBA(r=colour.r, g=colour.g, b=colour.b, a=0.3)
    made = [disc, marker(Marker.TEXT_VIEW_FACING, "probability", Vector3(z=_TEXT_M), f"{pose.probability:.2f}")]
    if pose.has_heading:
        made.append(marker(Marker.ARROW, "heading", Vector3(x=_ARROW_M, y=_ARROW_M / 8, z=_ARROW_M / 8)))
    return made
