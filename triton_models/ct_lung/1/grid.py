"""Morphology on a grid of voxels: distances in millimetres and connected components, by shifts alone, so that CPU and GPU run the same.

Masks are (slices, rows, columns) bool tensors, `spacing` is mm along these axes.
"""

import torch

AXES = (0, 1, 2)
IN_PLANE = (1, 2)


def shifted(values, axis, step, fill):
    """`values` moved by `step` voxels along `axis`; what comes in from outside is `fill`."""
    out = torch.full_like(values, fill)
    length = values.shape[axis] - abs(step)
    if length > 0:
        out.narrow(axis, max(step, 0), length).copy_(values.narrow(axis, max(-step, 0), length))
    return out


def dilate(mask, mm, spacing, axes=AXES):
    """What lies within `mm` of the mask: an exact Euclidean ball, one axis after the other (squared distances add up)."""
    limit = mm * mm + 1e-3
    far = 4 * limit
    distance = torch.full(mask.shape, far, dtype=torch.float32, device=mask.device).masked_fill_(mask, 0.0)
    for axis in axes:
        nearest = distance.clone()
        for step in range(1, int(mm / spacing[axis] + 1e-6) + 1):
            length = distance.shape[axis] - step
            if length <= 0:
                break
            added = (step * spacing[axis]) ** 2
            low, high = distance.narrow(axis, 0, length), distance.narrow(axis, step, length)
            target_low, target_high = nearest.narrow(axis, 0, length), nearest.narrow(axis, step, length)
            torch.minimum(target_low, high + added, out=target_low)
            torch.minimum(target_high, low + added, out=target_high)
        distance = nearest
    return distance <= limit


def erode(mask, mm, spacing, axes=AXES):
    """What lies farther than `mm` from everything outside the mask; the grid's edge is no outside."""
    return ~dilate(~mask, mm, spacing, axes)


def components(mask, axes=AXES):
    """int64 labels, 0 outside; neighbours share a face along one of `axes`, of which the last is always one.

    The nodes are runs along the columns, the edges where two runs touch: far fewer than voxels. Both ends of an edge point at
    the higher of their roots and pointers are halved, until nothing moves (FastSV): some ten rounds, however winding the shape.
    """
    start = mask & ~shifted(mask, 2, 1, fill=False)
    run = torch.cumsum(start.flatten(), 0).view(mask.shape) * mask
    edges = [_touching(run, start, axis) for axis in axes if axis != 2]
    low, high = (torch.cat(ends) for ends in zip(*edges))
    root = torch.arange(int(run.max()) + 1, device=mask.device)
    while True:
        ends = torch.cat([root[low], root[high]])
        above = torch.maximum(*ends.chunk(2)).repeat(2)
        new = root.scatter_reduce(0, ends, above, "amax")
        new = new[new]
        if torch.equal(new, root):
            return root[run]
        root = new


def _touching(run, start, axis):
    """Pairs of runs that are neighbours along `axis`; each pair once, where the later of the two begins."""
    length = run.shape[axis] - 1
    first, second = run.narrow(axis, 0, length), run.narrow(axis, 1, length)
    begins = start.narrow(axis, 0, length) | start.narrow(axis, 1, length)
    where = (first > 0) & (second > 0) & begins
    return first[where], second[where]


def sizes(label):
    """(roots, voxels of each), largest first, background left out."""
    counts = torch.bincount(label.flatten())
    counts[0] = 0
    counts, roots = torch.sort(counts, descending=True)
    return roots[counts > 0], counts[counts > 0]


def chosen(label, roots):
    """The mask of the components `roots`."""
    wanted = torch.zeros(int(label.max()) + 1, dtype=torch.bool, device=label.device)
    wanted[roots] = True
    wanted[0] = False
    return wanted[label]


def connected_to(mask, seed, axes=AXES):
    """The parts of `mask` that hold a voxel of `seed`."""
    label = components(mask, axes)
    return chosen(label, label[seed & mask])


def fill_planes(mask):
    """Per plane: what cannot reach the plane's edge without crossing the mask belongs to it.

    An edge counts as closed between two voxels of the mask: a lung that the edge cuts lies inside the body all the same.
    """
    edge = torch.zeros_like(mask)
    for axis, other in ((1, 2), (2, 1)):
        for line, seed in zip(_ends(mask, axis), _ends(edge, axis)):
            before, after = (line.cummax(other).values, line.flip(other).cummax(other).values.flip(other))
            seed |= ~(before & after)
    return ~connected_to(~mask, edge & ~mask, IN_PLANE)


def _ends(mask, axis):
    return mask.narrow(axis, 0, 1), mask.narrow(axis, mask.shape[axis] - 1, 1)


def grow(label, into, rounds):
    """Labels spread voxel by voxel into the mask `into`, all at the same pace (a geodesic watershed); the higher label wins a tie."""
    for _ in range(rounds):
        free = into & (label == 0)
        best = label.clone()
        for axis in AXES:
            for step in (-1, 1):
                best = torch.maximum(best, shifted(label, axis, step, 0))
        new = torch.where(free, best, label)
        if torch.equal(new, label):
            break
        label = new
    return label
