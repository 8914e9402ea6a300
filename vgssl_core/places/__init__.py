"""Geotagged image sets: one reader per layout gives a `PlaceSet`."""

from vgssl_core.places.place_set import UNKNOWN_STAMP_NS, Places, PlaceSet
from vgssl_core.places.radius import within_radius
from vgssl_core.places.reader import IMAGE_SUFFIXES, read_place_set, splits

__all__ = ["IMAGE_SUFFIXES", "UNKNOWN_STAMP_NS", "PlaceSet", "Places", "read_place_set", "splits", "within_radius"]
