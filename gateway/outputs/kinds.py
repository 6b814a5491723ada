"""Kinds of our objects, by which a peer takes some and others not: `objects` of its table, left out all.

By SOP class, which is what a peer accepts or refuses; pictures and much else have the Modality OT. What is of no kind goes to
every peer: so does a note that takes a result back (IHE IOCM), for who has the result has to hear of it.
"""

import json
from collections.abc import Iterable, Sequence

from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    MRImageStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

KINDS: dict[str, str] = {
    SegmentationStorage: "segmentations",
    Comprehensive3DSRStorage: "reports",
    SecondaryCaptureImageStorage: "pictures",
    RTStructureSetStorage: "structures",
    CTImageStorage: "images",
    MRImageStorage: "images",
    ParametricMapStorage: "maps",
}
_NAMES = tuple(dict.fromkeys(KINDS.values()))
USUAL = ("segmentations", "reports")
"""Of most pipelines; of the others the configuration decides, or the author of one."""


def _are_kinds(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(one in _NAMES for one in value)


OBJECTS = (f"a list of some of {json.dumps(_NAMES)}", _are_kinds, None)
"""The arguments of `setting` for that key."""


def unwanted(peer: object, sop_class_uid: str) -> str:
    """Why such an object does not go to the peer; empty where it does."""
    objects = _objects(peer)
    if objects is None or KINDS.get(sop_class_uid) in (None, *objects):
        return ""
    return f"its peer takes {', '.join(objects)} only ({line(objects)})"


def without(peer: object, sop_class_uid: str) -> str:
    """What the table of a peer may say that takes none of that SOP class; empty where nothing would be left."""
    kind, known = KINDS.get(sop_class_uid), _objects(peer) or _NAMES
    rest = [one for one in known if one != kind]
    return f"where it never takes {kind}: {line(rest)} in its table" if rest and kind in known else ""


def _objects(peer: object) -> Sequence[str] | None:
    return getattr(peer, "objects", None)


def line(objects: Iterable[str]) -> str:
    return f"objects = {json.dumps(list(objects))}"
