"""A street as quads: houses, things and vehicles near it, with their pictures under one condition."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vgssl_core.imaging import Image
from vgssl_core.town import facades, things
from vgssl_core.town.camera import Camera, Pose
from vgssl_core.town.conditions import Condition, develop, paint_sky
from vgssl_core.town.ground import PIXELS_PER_M, dress_top_view
from vgssl_core.town.layout import Street
from vgssl_core.town.neighbourhood import HOUSE_DEPTH_M, House, Neighbourhood, Thing, Vehicle
from vgssl_core.town.render import Canvas, Quads, Texture, draw, draw_ground
from vgssl_core.town.walls import SCALE, draw_roof, draw_wall, wall_colors

Floats = NDArray[np.float64]
#: Pictures are drawn with this many times the pixels along each side, then averaged.
SUPERSAMPLING = 1.5
SIGHT_M = 120.0
GROUND_M = 60.0
#: Beyond this distance people and vehicles are left out.
DETAIL_M = 70.0
_SNOW = (226, 230, 238)


def ground_square(street: Street) -> tuple[Floats, float]:
    """North-west corner (2,) and side of the square of ground that is drawn for a street."""
    reach = street.length_m / 2 + GROUND_M
    return (street.start_m + street.end_m) / 2 + np.array([-reach, reach]), 2 * reach


class TextureStore:
    """Pictures under one condition, each drawn when it is first asked for."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition

    @functools.lru_cache(maxsize=1500)  # noqa: B019 - a worker keeps one store per condition for its whole life
    def facade(self, design: facades.FacadeDesign, color: int, shop: int) -> Texture:
        """The front of a house."""
        picture, glow = facades.draw_facade(design, color, shop)
        if design.roof != "front":
            picture = np.ascontiguousarray(picture[..., :3])
        return Texture.of(self.condition.lit(picture, glow), SCALE)

    @functools.lru_cache(maxsize=1500)  # noqa: B019
    def side(self, design: facades.FacadeDesign, color: int) -> Texture:
        """The end wall of a house."""
        picture = facades.draw_end_wall(design, color, HOUSE_DEPTH_M)
        return Texture.of(self.condition.lit(picture), SCALE)

    @functools.lru_cache(maxsize=1500)  # noqa: B019
    def gable(self, design: facades.FacadeDesign, color: int) -> Texture:
        """The triangle above an end wall."""
        colors = wall_colors(design.material)
        width, height = round(HOUSE_DEPTH_M * SCALE), round(design.roof_m * SCALE)
        wall = self.condition.lit(draw_wall(design.material, colors[color % len(colors)], width, height, design.seed))
        rows, columns = np.mgrid[:height, :width]
        inside = np.abs(columns - width / 2) <= rows / height * width / 2
        return Texture.of(np.dstack([wall, np.where(inside, 255, 0).astype(np.uint8)]), SCALE)

    @functools.lru_cache(maxsize=1500)  # noqa: B019
    def roof(self, design: facades.FacadeDesign) -> Texture:
        """The slope above the front."""
        size = round(design.width_m * SCALE / 2), round(3.4 * SCALE / 2)
        picture = draw_roof(design.roof_color, *size, design.bays if design.roof == "mansard" else 0)
        if self.condition.snow > 0:
            picture = (picture * 0.2 + np.array(_SNOW) * 0.8).astype(np.uint8)
        return Texture.of(self.condition.lit(picture), SCALE / 2)

    @functools.lru_cache(maxsize=1500)  # noqa: B019
    def thing(self, kind: str, variety: str, seed: int) -> tuple[Texture, int]:
        """The picture of a thing, and its height in pixels."""
        snow = self.condition.snow > 0
        if kind == "tree":
            picture = things.draw_tree(variety, seed, self.condition.bare, snow)
        elif kind == "lamp":
            picture = things.draw_lamp(self.condition.glow > 0.5)
            if self.condition.glow > 0.5:
                return Texture.of(picture, 1.0), picture.shape[0]
        elif kind == "hedge":
            picture = things.draw_hedge(seed, snow)
        else:
            drawers = {
                "sign": things.draw_traffic_sign,
                "person": things.draw_person,
                "fence": things.draw_fence,
                "billboard": things.draw_billboard,
            }
            picture = drawers[kind](seed)
        return Texture.of(self.condition.lit(picture), 1.0), picture.shape[0]

    @functools.lru_cache(maxsize=100)  # noqa: B019
    def vehicle(self, paint: int, part: str) -> list[Texture]:
        """The five faces of a vehicle's box."""
        faces = things.draw_vehicle_faces(things.PAINTS[paint], part, self.condition.snow > 0)
        return [Texture.of(self.condition.lit(face), 45.0) for face in faces]


class Scene:
    """What can be seen from one street under one condition.

    Args:
        neighbourhood: The district.
        street: The street that is driven.
        top_view: The ground of its `ground_square`, from `draw_top_view`.
        parked: Vehicles that stand in it and around it.
        store: Pictures under the condition.
        sun_rad: Azimuth of the sun (ENU yaw).
    """

    def __init__(
        self,
        neighbourhood: Neighbourhood,
        street: Street,
        top_view: Image,
        parked: Sequence[Vehicle],
        store: TextureStore,
        sun_rad: float,
    ) -> None:
        self.store, self.condition, self._sun_rad = store, store.condition, sun_rad
        middle = (street.start_m + street.end_m) / 2
        reach = street.length_m / 2 + SIGHT_M
        pieces: list[tuple] = []
        for house in neighbourhood.houses:
            if np.linalg.norm(house.left_m - middle) < reach:
                pieces += self._house(house)
        near = [thing for thing in neighbourhood.things if np.linalg.norm(thing.at_m - middle) < reach]
        pieces += [self._screen(thing) for thing in near if thing.along is not None]
        self._quads = self._pack(pieces)
        self._standing = [thing for thing in near if thing.along is None]
        self._standing_m = np.array([thing.at_m for thing in self._standing]).reshape(-1, 2)
        self._parked = list(parked)
        self._origin_m, self._size_m = ground_square(street)
        view = dress_top_view(top_view, self.condition.snow, self.condition.wet)
        self._ground = Texture.of(self.condition.lit(view), PIXELS_PER_M)

    def photograph(
        self,
        camera: Camera,
        pose: Pose,
        vehicles: Sequence[Vehicle],
        people: Sequence[Thing],
        is_query: bool,
        rng: np.random.Generator,
    ) -> Image:
        """The camera's picture from a pose, with passing vehicles and people: (height, width, 3) uint8 RGB."""
        fine = camera.scaled(SUPERSAMPLING)
        canvas = self.draw(fine, pose, vehicles, people)
        paint_sky(canvas, self.condition, fine, pose, rng)
        return develop(canvas, self.condition, camera, pose, is_query, rng)

    def draw(self, camera: Camera, pose: Pose, vehicles: Iterable[Vehicle], people: Iterable[Thing]) -> Canvas:
        """The scene without sky, weather and the camera's own faults."""
        pieces = []
        for vehicle in [*self._parked, *vehicles]:
            if np.linalg.norm(vehicle.at_m - pose.position_m[:2]) < DETAIL_M:
                pieces += self._vehicle(vehicle)
        offset = self._standing_m - pose.position_m[:2]
        ahead = offset @ (math.cos(pose.yaw_rad), math.sin(pose.yaw_rad))
        aside = np.abs(offset @ (-math.sin(pose.yaw_rad), math.cos(pose.yaw_rad)))
        seen = (ahead > -1) & (ahead < SIGHT_M) & (aside < ahead * camera.width / camera.focal_px + 8)
        pieces += [self._facing(self._standing[k], pose) for k in np.flatnonzero(seen)]
        pieces += [self._facing(person, pose) for person in people]
        canvas = Canvas.blank(camera)
        draw_ground(canvas, camera, pose, self._origin_m, self._size_m, self._ground)
        draw(canvas, camera, pose, self._quads + self._pack(pieces))
        return canvas

    def _pack(self, pieces: Sequence[tuple]) -> Quads:
        corners = np.array([piece[:3] for piece in pieces], float).reshape(-1, 3, 3)
        shade = np.array([piece[4] for piece in pieces], float)
        return Quads(corners[:, 0], corners[:, 1], corners[:, 2], [piece[3] for piece in pieces], shade)

    def _light(self, normal: Floats) -> float:
        """Brightness of a wall that looks along ``normal``, (2,)."""
        toward_sun = normal[0] * math.cos(self._sun_rad) + normal[1] * math.sin(self._sun_rad)
        return 1.0 + self.condition.sun * float(toward_sun) * (0.6 if toward_sun > 0 else 1.0)

    def _house(self, house: House) -> list[tuple]:
        design, along = house.design, house.along
        inward = np.array([-along[1], along[0]])
        front, deep = _lift(along * design.width_m), _lift(inward * HOUSE_DEPTH_M)
        eaves, rise = np.array([0, 0, design.height_m]), np.array([0, 0, design.roof_m])
        left = _lift(house.left_m)
        facade = self.store.facade(design, house.color, house.shop)
        side, roof = self.store.side(design, house.color), self.store.roof(design)
        light = [self._light(normal) for normal in (-inward, along, -along)]
        top = eaves + rise if design.roof == "front" else eaves
        pieces = [
            (left + top, front, -top, facade, light[0]),
            (left + front + eaves, deep, -eaves, side, light[1]),
            (left + deep + eaves, -deep, -eaves, side, light[2]),
        ]
        if design.roof == "side":
            ridge = left + deep / 2 + eaves + rise
            gable = self.store.gable(design, house.color)
            pieces.append((ridge, front, -deep / 2 - rise, roof, light[0]))
            pieces.append((left + front + eaves + rise, deep, -rise, gable, light[1]))
            pieces.append((left + deep + eaves + rise, -deep, -rise, gable, light[2]))
        elif design.roof == "front":
            ridge = left + front / 2 + eaves + rise
            pieces.append((ridge, deep, front / 2 - rise, roof, light[1]))
            pieces.append((ridge + deep, -deep, -front / 2 - rise, roof, light[2]))
        elif design.roof == "mansard":
            step = deep / HOUSE_DEPTH_M
            upper = eaves + rise
            pieces.append((left + step + upper, front, -step - rise, roof, light[0]))
            pieces.append((left + front + step + upper, deep - 2 * step, -rise, side, light[1]))
            pieces.append((left + deep - step + upper, 2 * step - deep, -rise, side, light[2]))
        return pieces

    def _screen(self, thing: Thing) -> tuple:
        texture, pixels = self.store.thing(thing.kind, thing.variety, thing.seed)
        assert thing.along is not None
        across = _lift(thing.along * thing.width_m)
        corner = np.array([*thing.at_m, thing.base_m + thing.height_m])
        scaled = Texture(texture.levels, pixels / thing.height_m)
        return corner, across, np.array([0, 0, -thing.height_m]), scaled, 1.0

    def _facing(self, thing: Thing, pose: Pose) -> tuple:
        texture, pixels = self.store.thing(thing.kind, thing.variety, thing.seed)
        right = np.array([math.sin(pose.yaw_rad), -math.cos(pose.yaw_rad), 0]) * thing.width_m
        corner = np.array([*thing.at_m, thing.base_m + thing.height_m]) - right / 2
        return corner, right, np.array([0, 0, -thing.height_m]), Texture(texture.levels, pixels / thing.height_m), 1.0

    def _vehicle(self, vehicle: Vehicle) -> list[tuple]:
        if vehicle.is_van:
            return self._box(vehicle, (5.2, 2.0, 2.2), 0.25, 0.0, "van")
        body = self._box(vehicle, (4.3, 1.75, 0.72), 0.22, 0.0, "body")
        return body + self._box(vehicle, (2.3, 1.5, 0.52), 0.94, -0.25, "cabin")

    def _box(self, vehicle: Vehicle, size: tuple[float, float, float], base: float, back: float, part: str) -> list:
        length, width, height = size
        heading = np.array([math.cos(vehicle.yaw_rad), math.sin(vehicle.yaw_rad), 0])
        left = np.array([-heading[1], heading[0], 0])
        middle = _lift(vehicle.at_m) + heading * back + np.array([0, 0, base + height])
        down = np.array([0, 0, -height])
        front, back_left = middle + heading * length / 2, middle - heading * length / 2 + left * width / 2
        ahead, across = heading * length, left * width
        faces = self.store.vehicle(vehicle.paint, part)
        corners = [
            (front - across / 2, across, down),
            (back_left + ahead, -ahead, down),
            (back_left, -across, down),
            (back_left - across, ahead, down),
            (back_left, ahead, -across),
        ]
        return [(*corner, face, 1.0) for corner, face in zip(corners, faces, strict=True)]


def _lift(point: Floats) -> Floats:
    return np.array([point[0], point[1], 0.0])
