"""Right and left lung in a chest CT, without weights: air inside the body, less the airways, parted, vessels closed in.

The thinking is done on a coarse grid of about 1.8 mm; the border is then decided voxel by voxel at full resolution.
`hounsfield` is (slices, rows, columns) int16; slices run to the head, rows to the back, columns to the patient's left.
"""

import math

import torch
from grid import IN_PLANE, chosen, components, connected_to, dilate, erode, fill_planes, grow, sizes

RIGHT, LEFT, GAS = 1, 2, 3

COARSE_MM = 1.8
COARSE_VOXELS_AT_MOST = 12_000_000
TISSUE_HU = -400
LUNG_HU = -400
GAS_HU = -965  # the median of bowel gas is below, that of the worst emphysema above
TABLE_MM = 6  # thinner than twice this, and away from the body, is table, cable or blanket
WALL_MM = 2.5
CLOSING_MM = 7
MARGIN_MM = 20  # more than all that is dilated one after the other
LUNG_ML = 50  # of one lung at least
PART_ML = 3  # of a part of a lung that lies apart
ISLAND_MM2 = 300
CHUNK = 16  # slices at a time at full resolution


def segment(hounsfield, spacing):
    """(slices, rows, columns) uint8 on the device of `hounsfield`: 0 background, 1 right, 2 left; all 0 where there is no lung."""
    factors = _factors(hounsfield.shape, spacing)
    coarse = _shrunk(hounsfield, factors)
    spacing = [s * f for s, f in zip(spacing, factors)]
    body = _body(coarse, spacing)
    air = (coarse < LUNG_HU) & body
    rows, columns = _window(air, spacing)
    middle = _middle(body, spacing) - columns.start
    coarse, air = coarse[:, rows, columns], air[:, rows, columns]
    airway = _airway(coarse, air, middle, spacing)
    lungs = _parted(coarse, air & ~dilate(airway, WALL_MM, spacing), middle, spacing)
    inner, outer = torch.zeros_like(body, dtype=torch.uint8), torch.zeros_like(body, dtype=torch.uint8)
    inner[:, rows, columns], outer[:, rows, columns] = _closed(lungs, airway, spacing)
    return _refined(hounsfield, inner, outer, factors)


def _factors(shape, spacing):
    """How many voxels along each axis make one of the coarse grid, which has about COARSE_MM and never too many voxels."""
    mm = COARSE_MM
    while True:
        factors = [max(1, round(mm / s)) for s in spacing]
        if math.prod(-(-n // f) for n, f in zip(shape, factors)) <= COARSE_VOXELS_AT_MOST:
            return factors
        mm *= 1.1


def _shrunk(hounsfield, factors):
    """Means over blocks of `factors` voxels, float32 HU; bone and metal count as soft tissue so that they do not hide air."""
    depth = factors[0]
    planes = []
    for start in range(0, len(hounsfield), depth):
        block = hounsfield[start : start + depth].float().clamp_(-1024, 200).mean(0)
        planes.append(torch.nn.functional.avg_pool2d(block[None, None], factors[1:], ceil_mode=True)[0, 0])
    return torch.stack(planes)


def _body(coarse, spacing):
    """The largest thick piece of tissue and what it encloses in every plane; table and blanket are thin and stay out."""
    tissue = coarse > TISSUE_HU
    core = erode(tissue, TABLE_MM, spacing, IN_PLANE)
    roots, _ = sizes(label := components(core))
    if not len(roots):
        return torch.zeros_like(tissue)
    core = dilate(label == roots[0], TABLE_MM + 3, spacing, IN_PLANE)
    return fill_planes(core & tissue)


def _window(air, spacing):
    """Rows and columns of the air, with a margin; the rest of the picture, half of it, need not be thought about."""
    found = []
    for axis in IN_PLANE:
        there = torch.nonzero(air.any(0).any(2 - axis)).flatten()
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, 0)
        margin = math.ceil(MARGIN_MM / spacing[axis])
        found.append(slice(max(0, first - margin), last + margin + 1))
    return found


def _airway(coarse, air, middle, spacing):
    """Trachea and main bronchi, lumen only; all False where no trachea is found."""
    trachea = _trachea(coarse, air, middle, spacing)
    grown = trachea
    if not trachea.any():
        return trachea
    ml = _ml(spacing)
    for level in range(-980, -860, 10):
        reached = connected_to(air & ((coarse < level) | trachea), trachea)
        before, after = float(grown.sum()) * ml, float(reached.sum()) * ml
        if after > 150 or after - before > 30 and level > -980:  # it leaked into the lung
            break
        grown = reached
    return grown


def _trachea(coarse, air, middle, spacing):
    """The longest tube of air near the midline in the upper half of the picture: round in every plane, over 25 mm long."""
    dark = air & (coarse < -920)
    label = components(dark, IN_PLANE)
    roots, counts = sizes(label)
    area = counts * spacing[1] * spacing[2]
    tubes = chosen(label, roots[(area > 50) & (area < 700)])
    label = components(tubes)
    best, longest = torch.zeros_like(tubes), 25.0
    for root in sizes(label)[0][:20]:
        z, _, x = torch.nonzero(label == root, as_tuple=True)
        length = float(z.max() - z.min() + 1) * spacing[0]
        central = abs(float(x.float().mean()) - middle) * spacing[2] < 35
        if central and length > longest and float(z.max()) > len(coarse) * 0.6:
            best, longest = label == root, length
    return best


def _middle(body, spacing):
    """The column of the body's midline."""
    columns = torch.nonzero(body, as_tuple=True)[2]
    return float(columns.float().mean()) if len(columns) else body.shape[2] / 2


def _parted(coarse, air, middle, spacing):
    """uint8 labels RIGHT and LEFT on the coarse grid: lungs that touch are cut where the bridge between them is thinnest."""
    for mm in (0, 2, 3.5, 5, 7, 9):
        label = components(erode(air, mm, spacing))
        parts = _parts(coarse, label, middle, spacing)
        if not any(part[2] for part in parts):
            break
    seeds = torch.zeros_like(air, dtype=torch.uint8)
    columns = torch.arange(air.shape[2], device=air.device)
    for root, side, joined in parts:
        where = label == root
        seeds[where] = side
        if joined:  # no bridge that erosion breaks: the body's midline decides
            seeds = torch.where(where, torch.where(columns < middle, RIGHT, LEFT).to(torch.uint8), seeds)
    return _lung_sized(grow(seeds, air, 60), spacing)


def _parts(coarse, label, middle, spacing):
    """(root, side, joined) of every part that is large enough; `joined` ones reach far over the midline."""
    found = []
    roots, counts = sizes(label)
    for root, count in zip(roots[:12], counts[:12]):
        if float(count) * _ml(spacing) < PART_ML:
            break
        where = label == root
        columns = torch.nonzero(where, as_tuple=True)[2]
        right = float((columns < middle).float().mean())
        gas = float(coarse[erode(where, 3, spacing) if count > 5000 else where].median()) < GAS_HU
        joined = 0.12 < right < 0.88 and float(count) * _ml(spacing) > 500 and not gas
        found.append((root, GAS if gas else RIGHT if right > 0.5 else LEFT, joined))
    return found


def _lung_sized(labels, spacing):
    """Per side: the largest part, and what lies close to it; gas and what is too small for a lung is dropped."""
    kept = torch.zeros_like(labels)
    for side in (RIGHT, LEFT):
        part = components(labels == side)
        roots, counts = sizes(part)
        if not len(roots) or float(counts[0]) * _ml(spacing) < LUNG_ML:
            continue
        near = dilate(part == roots[0], 8, spacing)
        large = chosen(part, roots[counts * _ml(spacing) >= PART_ML])
        kept[chosen(part, part[near & large])] = side
    return kept


def _closed(lungs, airway, spacing):
    """(inner, outer) labels: inside `inner` all is lung, vessels too; between `inner` and `outer` the full resolution decides."""
    blocked = dilate(airway, WALL_MM, spacing)
    closed = torch.zeros_like(lungs)
    for side in (RIGHT, LEFT):
        one = lungs == side
        filled = _without_islands(erode(dilate(one, CLOSING_MM, spacing), CLOSING_MM, spacing), spacing)
        closed[filled & (closed == 0) & (lungs != LEFT + RIGHT - side) & (one | ~blocked)] = side
    voxel = max(spacing[1:]) * 1.5
    inner = torch.where(erode(closed > 0, voxel, spacing, IN_PLANE), closed, 0)
    outer = grow(closed, dilate(closed > 0, voxel, spacing, IN_PLANE) & ~blocked, 2)
    return inner, outer


def _without_islands(mask, spacing):
    """Vessels and nodules that the lung surrounds in a plane are lung; larger islands are not: the dome of the liver is one."""
    label = components(fill_planes(mask) & ~mask, IN_PLANE)
    roots, counts = sizes(label)
    return mask | chosen(label, roots[counts * spacing[1] * spacing[2] < ISLAND_MM2])


def _refined(hounsfield, inner, outer, factors):
    """Full-resolution uint8 labels."""
    labels = torch.zeros(hounsfield.shape, dtype=torch.uint8, device=hounsfield.device)
    z, y, x = (torch.arange(n, device=hounsfield.device) // f for n, f in zip(hounsfield.shape, factors))
    inner, outer = (coarse[:, y][:, :, x] for coarse in (inner, outer))
    for start in range(0, len(hounsfield), CHUNK):
        planes = z[start : start + CHUNK]
        border = torch.where(hounsfield[start : start + CHUNK] < LUNG_HU, outer[planes], 0)
        labels[start : start + CHUNK] = torch.maximum(inner[planes], border)
    return labels


def _ml(spacing):
    return spacing[0] * spacing[1] * spacing[2] / 1000
