"""The anatomy of the chest phantom: what lies where, in millimetres and Hounsfield units. Invented, and no patient's.

Coordinates are LPS with the origin in the middle of the chest: x to the left, y to the back, z to the head. Everything is
worked out one plane at a time on grids `x` (1, columns) and `y` (rows, 1), float32 mm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

AIR, FAT, SKIN, MUSCLE, BLOOD, LIVER, WALL = -1000, -100, 20, 50, 45, 60, 30
LUNG, EMPHYSEMA, SPONGIOSA, CORTEX, TABLE, FOAM = -865, -972, 190, 620, 60, -930
RIGHT, LEFT = 1, 2

Point = tuple[float, float, float]
Plane = np.ndarray


@dataclass(frozen=True)
class Tube:
    """From `start` to `end`, round, of `radius` mm."""

    start: Point
    end: Point
    radius: float

    def crosses(self, z: float, margin: float = 0) -> bool:
        low, high = sorted((self.start[2], self.end[2]))
        return low - self.radius - margin <= z <= high + self.radius + margin

    def depth(self, x: Plane, y: Plane, z: float) -> Plane:
        """Mm inside the surface, negative outside; (rows, columns)."""
        a, b = np.array(self.start), np.array(self.end)
        axis = b - a
        along = (x - a[0]) * axis[0] + (y - a[1]) * axis[1] + (z - a[2]) * axis[2]
        t = np.clip(along / (axis @ axis), 0, 1)
        nearest = (x - a[0] - t * axis[0]) ** 2 + (y - a[1] - t * axis[1]) ** 2 + (z - a[2] - t * axis[2]) ** 2
        return np.asarray(self.radius - np.sqrt(nearest))


AIRWAYS = (
    Tube((0, 2, 200), (0, 8, 28), 8.5),
    Tube((0, 8, 28), (-36, 14, 0), 6.5),
    Tube((0, 8, 28), (42, 16, 2), 6.0),
)
AIRWAY_WALL = 1.8
GREAT_VESSELS = (
    Tube((20, 48, 40), (16, 46, -170), 12),
    Tube((20, 46, 42), (-6, -22, 52), 13),
    Tube((-6, -22, 52), (4, -18, 0), 14),
    Tube((-22, -12, 90), (-24, -8, -10), 9),
    Tube((6, -10, 22), (-38, 4, 6), 9),
    Tube((8, -12, 20), (42, 6, 10), 10),
)
HEART = (((22, -22, -42), (54, 40, 48)), ((-12, -20, -40), (38, 36, 42)))


@dataclass(frozen=True)
class Anatomy:
    """One phantom patient; `seed` draws the vessels and the emphysema."""

    seed: int = 0

    def lungs(self, x: Plane, y: Plane, z: float) -> np.ndarray:
        """(rows, columns) uint8: 0, RIGHT or LEFT; vessels inside count, trachea, main bronchi and their walls do not."""
        lung = (_cavity(x, y, z) > 0) & (z > _diaphragm(x, y)) & (np.abs(x) > _mediastinum(y, z))
        for centre, radii in HEART:
            lung &= _ellipsoid(x, y, z, centre, radii) > 1
        for tube in (*GREAT_VESSELS, *AIRWAYS):
            if tube.crosses(z, AIRWAY_WALL):
                lung &= tube.depth(x, y, z) < -AIRWAY_WALL
        lung &= _ellipsoid(x, y, 0, (0, 66, 0), (26, 22, 1)) > 1
        return np.where(lung, np.where(x < 0, RIGHT, LEFT), 0).astype(np.uint8)

    def hounsfield(self, x: Plane, y: Plane, z: float) -> Plane:
        """(rows, columns) float32 HU without noise."""
        image = _trunk(x, y, z)
        _bones(image, x, y, z)
        lungs = self.lungs(x, y, z) > 0
        image[lungs] = (LUNG + 0.35 * y + 0 * x)[lungs]
        self._emphysema(image, lungs, x, y, z)
        self._vessels(image, lungs, x, y, z)
        for tube in AIRWAYS:
            if tube.crosses(z, AIRWAY_WALL):
                depth = tube.depth(x, y, z)
                image[(depth > -AIRWAY_WALL) & (image < WALL)] = WALL
        for tube in AIRWAYS:
            if tube.crosses(z):
                image[tube.depth(x, y, z) > 0] = AIR
        return image

    def _emphysema(self, image: Plane, lungs: np.ndarray, x: Plane, y: Plane, z: float) -> None:
        for centre, radius in self._holes:
            if abs(z - centre[2]) < radius:
                hole = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
                image[hole & lungs] = EMPHYSEMA

    def _vessels(self, image: Plane, lungs: np.ndarray, x: Plane, y: Plane, z: float) -> None:
        for tube in self._tree:
            if tube.crosses(z):
                rows, columns = (_window(axis, tube, n) for axis, n in ((y[:, 0], 1), (x[0], 0)))
                inside = tube.depth(x[:, columns], y[rows], z) > 0
                image[rows, columns][inside & lungs[rows, columns]] = BLOOD

    @cached_property
    def _holes(self) -> list[tuple[np.ndarray, float]]:
        """Emphysema as it lies in smokers: in the upper lobes."""
        generator = np.random.default_rng([self.seed, 1])
        sides = generator.choice((-1, 1), 70)
        centres = np.stack(
            [sides * generator.uniform(30, 105, 70), generator.uniform(-50, 50, 70), generator.uniform(25, 95, 70)], 1
        )
        return list(zip(centres, generator.uniform(4, 13, 70), strict=True))

    @cached_property
    def _tree(self) -> list[Tube]:
        generator = np.random.default_rng([self.seed, 2])
        hila = (((-36, 6, 4), -1), ((40, 8, 6), 1))
        return [tube for hilum, side in hila for tube in _branches(generator, np.array(hilum, float), side)]


def _branches(generator: np.random.Generator, hilum: np.ndarray, side: int) -> Iterator[Tube]:
    """Vessels from the hilum outwards: each one ends in two that are thinner and shorter."""
    trunks = [(0.3, -0.7, 0.7), (0.4, 0.6, 0.7), (0.9, -0.4, 0.0), (0.7, 0.6, -0.4), (0.4, 0.3, -0.9), (0.5, -0.6, -0.6)]
    growing = [(hilum, np.array((side * x, y, z)), 4.6) for x, y, z in trunks]
    while growing:
        start, direction, radius = growing.pop()
        direction = direction / np.linalg.norm(direction)
        end = start + direction * radius * generator.uniform(5, 8)
        yield Tube(tuple(start), tuple(end), radius)
        if radius > 0.9:
            turn = np.cross(direction, generator.normal(size=3))
            turn *= generator.uniform(0.45, 0.75) / np.linalg.norm(turn)
            growing += [(end, direction + turn, radius * 0.8), (end, direction - turn, radius * 0.68)]


def _window(axis: np.ndarray, tube: Tube, coordinate: int) -> slice:
    low, high = sorted((tube.start[coordinate], tube.end[coordinate]))
    start, stop = np.searchsorted(axis, (low - tube.radius, high + tube.radius))
    return slice(int(start), int(stop))


def _ellipsoid(x: Plane, y: Plane, z: float, centre: Point, radii: Point) -> Plane:
    """Below 1 inside."""
    return np.asarray(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2)


def _oval(x: Plane, y: Plane, a: float, b: float, power: float = 2.3) -> Plane:
    """Mm inside an oval of half axes `a` and `b`, about; negative outside."""
    ratio = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return np.asarray((1 - ratio) * min(a, b))


def _step(low: float, high: float, z: float) -> float:
    t = min(max((z - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _cavity(x: Plane, y: Plane, z: float) -> Plane:
    """Mm inside the rib cage, which closes as a dome over the apices of the lungs."""
    dome = max(1 - (max(z - 20, 0) / 98) ** 2, 1e-4) ** 0.5
    return _oval(x, y + 4, 128 * dome * (1 - 0.06 * _step(-40, 20, z)), 80 * dome**0.7, 2.2)


def _mediastinum(y: Plane, z: float) -> Plane:
    """Half its width along y; behind the breastbone the lungs all but touch."""
    return np.asarray(7 + 21 * np.exp(-(((y - 12) / 45) ** 2)) + 9 * _step(50, 110, z) + 0 * y, dtype=np.float32)


def _diaphragm(x: Plane, y: Plane) -> Plane:
    """Z of the diaphragm: two domes, the right one higher, and recesses around them."""
    height = np.where(x < 0, 62, 52)
    arch = np.clip(1 - ((np.abs(x) - 55) / 72) ** 2 - ((y + 10) / 78) ** 2, 0, None) ** 0.6
    return np.asarray(-118 + height * arch)


def _trunk(x: Plane, y: Plane, z: float) -> Plane:
    shoulders, neck = _step(60, 130, z), _step(110, 175, z)
    depth = _oval(x, y, 152 + 18 * shoulders - 24 * neck, 100)
    image = np.full(depth.shape, AIR, dtype=np.float32)
    _table(image, x, y)
    image[depth > 0] = SKIN
    image[depth > 2] = FAT
    image[depth > 11 + 4 * np.cos(np.arctan2(y, x) * 2)] = MUSCLE
    cavity = _cavity(x, y, z) > 0
    below = cavity & (z <= _diaphragm(x, y))
    image[cavity & ~below] = FAT + 40
    image[below] = LIVER
    for centre, radii in HEART:
        image[_ellipsoid(x, y, z, centre, radii) < 1] = BLOOD
    for tube in GREAT_VESSELS:
        if tube.crosses(z):
            image[tube.depth(x, y, z) > 0] = BLOOD
    return image


def _table(image: Plane, x: Plane, y: Plane) -> None:
    below = y - (103 - 0.0012 * x**2)
    image[(below > 0) & (below < 36) & (np.abs(x) < 200)] = FOAM
    image[((below > 0) & (below < 2.5)) | ((below > 33) & (below < 36))] = TABLE


def _bones(image: Plane, x: Plane, y: Plane, z: float) -> None:
    """Ribs fall forward by a third; vertebrae every 27 mm with discs between; a breastbone."""
    shell = _cavity(x, y, z)
    phase = np.abs((z + 0.35 * y + 500) % 25 - 12.5)
    ribs = (shell > -9) & (shell < -1.5) & (phase < 5.5) & (np.abs(x) > 24) & (z < 112)
    _bone(image, ribs, (shell > -7.5) & (shell < -3) & (phase < 4))
    vertebra = _ellipsoid(x, y, 0, (0, 62, 0), (19, 15, 1))
    disc = (z + 500) % 27 < 5
    if disc:
        image[vertebra < 1] = MUSCLE + 35
    else:
        _bone(image, vertebra < 1, vertebra < 0.82)
    arch = _ellipsoid(x, y, 0, (0, 81, 0), (14, 10, 1))
    _bone(image, (arch < 1) & (arch > 0.5), (arch < 0.9) & (arch > 0.62))
    image[arch <= 0.5] = WALL
    if not disc:
        _bone(image, (np.abs(x) < 3.5) & (y > 89) & (y < 97), (np.abs(x) < 2) & (y > 90) & (y < 96))
    if -60 < z < 85:
        _bone(image, _oval(x, y + 80, 19, 6) > 0, _oval(x, y + 80, 19, 6) > 1.5)


def _bone(image: Plane, whole: np.ndarray, inside: np.ndarray) -> None:
    image[whole] = CORTEX
    image[whole & inside] = SPONGIOSA
