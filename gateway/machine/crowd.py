"""Who makes room where too many wait: whoever comes with many is in the way of itself, and of nobody else."""

from collections import Counter
from collections.abc import Sequence


def crowded(addresses: Sequence[str]) -> int:
    """The place, in the addresses of those that wait, oldest first: of the oldest of the address that comes most often."""
    ((most, _),) = Counter(addresses).most_common(1)
    return addresses.index(most)
