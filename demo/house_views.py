"""Pictures of generated houses: the 36 views of a viewpoint, by a pinhole camera.

The camera stands `EYE` metres above the floor and is 60 degrees high. View 12 * row + k looks t = 30 k
degrees clockwise from north and e = 30 (row - 1) degrees up:

    forward = (sin t cos e, cos t cos e, sin e), right = (cos t, -sin t, 0), up = right x forward

A pixel u to the right of the centre and v above it, in units of the focal length (half of the height by
tan 30 degrees), sees along forward + u right + v up. What it sees first is found by formula: planes
for floor, ceiling and walls, which have no thickness; quadratic equations for what stands in rooms.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8

from ..train.navigation.views import VIEW_ELEVATIONS, VIEW_HEADINGS
from .houses import (
    CEILING,
    DOOR_HALF_WIDTH,
    DOOR_HEIGHT,
    EYE,
    RADIUS,
    ROOM,
    THING_COLORS,
    WALL_COLORS,
    House,
    Place,
    Thing,
)

WIDTH, HEIGHT = 96, 72  # pixels; a CLIP model resizes them anyway
HALF_ANGLE = math.radians(30)  # between the centre and the upper edge
FRAME = 0.12  # metres around a door
SKIRTING = 0.12  # metres above the floor
FLOOR_GREY, CEILING_GREY, FRAME_GREY, SKIRTING_GREY = 105, 205, 160, 60
WALL_LIGHT = (0.82, 1.0)  # of walls of constant x, and of constant y: corners are seen
DIM = 0.015  # of the light that a metre takes
NOISE = 6.0  # standard deviation in levels
LIGHT = np.array([0.4, -0.3, 0.87], np.float32)  # where the light of round things comes from

Ray = Float32[np.ndarray, "ray 3"]


@lru_cache(maxsize=2)
def view_rays(width: int, height: int) -> Ray:
    """Return the direction of each pixel of each view, (view, row, column) in one axis.

    They have no unit length: their component along `forward` is 1.
    """
    t, e = VIEW_HEADINGS, VIEW_ELEVATIONS
    forward = np.stack([np.sin(t) * np.cos(e), np.cos(t) * np.cos(e), np.sin(e)], -1)
    right = np.stack([np.cos(t), -np.sin(t), np.zeros_like(t)], -1)
    up = np.cross(right, forward)
    focal = height / 2 / math.tan(HALF_ANGLE)
    u = (np.arange(width) + 0.5 - width / 2) / focal
    v = (height / 2 - np.arange(height) - 0.5) / focal
    rays = (
        forward[:, None, None]
        + u[None, None, :, None] * right[:, None, None]
        + v[None, :, None, None] * up[:, None, None]
    )
    return rays.reshape(-1, 3).astype(np.float32)


def draw_views(
    house: House,
    place: Place,
    rng: np.random.Generator,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> UInt8[np.ndarray, "36 height width 3"]:
    """Return the views of a viewpoint as RGB, with noise like a sensor's."""
    rays = view_rays(width, height)
    eye = np.array([place.x, place.y, EYE], np.float32)
    with np.errstate(divide="ignore"):  # rays along a plane meet it at infinity
        inverse = 1 / rays
    depth, levels = _floor_and_ceiling(eye, inverse)
    for axis in (0, 1):
        for line in range(house.side + 1):
            _draw_wall(house, axis, line, eye, rays, inverse, depth, levels)
    for thing in house.things:
        _draw_thing(thing, eye, rays, depth, levels)
    lengths = depth * np.sqrt((rays**2).sum(axis=1))
    levels *= (1 - DIM * lengths)[:, None]
    levels += NOISE * rng.standard_normal(levels.shape, np.float32)
    return levels.clip(0, 255).astype(np.uint8).reshape(-1, height, width, 3)


def _floor_and_ceiling(eye: np.ndarray, inverse: Ray) -> tuple[np.ndarray, Ray]:
    """Return how far along each ray floor or ceiling is, and their levels."""
    is_up = inverse[:, 2] > 0
    depth = np.where(is_up, CEILING - EYE, -EYE).astype(np.float32) * inverse[:, 2]
    grey = np.where(is_up, CEILING_GREY, FLOOR_GREY).astype(np.float32)
    return depth, np.repeat(grey[:, None], 3, axis=1)


def _draw_wall(
    house: House,
    axis: int,
    line: int,
    eye: np.ndarray,
    rays: Ray,
    inverse: Ray,
    depth: Float32[np.ndarray, " ray"],
    levels: Ray,
) -> None:
    """Draw the walls in a plane where it is nearer than what was drawn; both arrays are changed."""
    offset = np.float32(line * ROOM - eye[axis])
    if abs(offset) < 1e-4:  # who stands in a door sees its wall from the side
        return
    at = offset * inverse[:, axis]
    seen = np.flatnonzero((at > 0) & (at < depth))
    along = eye[1 - axis] + at[seen] * rays[seen, 1 - axis]
    above = EYE + at[seen] * rays[seen, 2]
    cell = np.clip(along // ROOM, 0, house.side - 1).astype(np.int64)
    centres = np.full(house.side, -np.inf, np.float32)
    for door in house.doors:
        if door.axis == axis and door.wall == line * ROOM:
            centres[int(door.centre // ROOM)] = door.centre
    # How far outside of the door's hole, in the direction in which it is farthest outside.
    outside = np.maximum(np.abs(along - centres[cell]) - DOOR_HALF_WIDTH, above - DOOR_HEIGHT)
    kept = outside > 0
    seen, above, cell, outside = seen[kept], above[kept], cell[kept], outside[kept]
    nearer = line - 1 if offset > 0 else line  # the rooms on the eye's side
    across = np.full_like(cell, min(max(nearer, 0), house.side - 1))
    column, row = (across, cell) if axis == 0 else (cell, across)
    colors = _room_colors(house)[row * house.side + column]
    colors[outside < FRAME] = FRAME_GREY
    colors[above < SKIRTING] = SKIRTING_GREY
    depth[seen] = at[seen]
    levels[seen] = colors * np.float32(WALL_LIGHT[axis])


@lru_cache(maxsize=8)
def _room_colors(house: House) -> Float32[np.ndarray, "room 3"]:
    return np.array([WALL_COLORS[color] for color in house.colors], np.float32)


def _draw_thing(
    thing: Thing,
    eye: np.ndarray,
    rays: Ray,
    depth: Float32[np.ndarray, " ray"],
    levels: Ray,
) -> None:
    """Draw a vertical cylinder or a ball that lies on the floor, where it is nearest."""
    radius = np.float32(RADIUS[thing.shape])
    axes = 2 if thing.shape == "pillar" else 3  # a pillar is a circle seen from above
    centre = np.array([thing.x, thing.y, radius], np.float32)[:axes]
    towards = centre - eye[:axes]
    flat = rays[:, :axes]
    # |s ray - towards| = radius: the smaller root of a quadratic equation in s.
    square = (flat**2).sum(axis=1)
    half = flat @ towards
    inside = half**2 - square * (towards @ towards - radius**2)
    seen = np.flatnonzero((inside > 0) & (half > 0))
    at = (half[seen] - np.sqrt(inside[seen])) / square[seen]
    nearest = at < depth[seen]
    seen, at = seen[nearest], at[nearest]
    normal = (at[:, None] * flat[seen] - towards) / radius
    shade = 0.75 + 0.25 * (normal @ LIGHT[:axes])
    depth[seen] = at
    levels[seen] = np.array(THING_COLORS[thing.color], np.float32) * shade[:, None]
