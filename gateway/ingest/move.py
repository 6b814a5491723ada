"""Move: what a peer sends to our door because it was asked to, and says so (Move Originator AE Title, PS3.7 9.1.1.1.8).

Anybody may say that, and the door cannot know: whether that peer was asked for that series is looked up later (work/lent.py).
"""

from dataclasses import replace
from uuid import uuid4

from gateway.dicom.instance import Origin

MOVE, SENT = "move", "dimse"


def turned(origin: Origin, move_originator: str, ae_title: str) -> Origin:
    """That of an association's next instance; what we asked for, under `ae_title`, counts as an association of its own.

    Archives that are made with pynetdicom name themselves instead of who asked them.
    """
    ingest = MOVE if move_originator and move_originator in (ae_title, origin.calling_ae_title) else SENT
    return origin if origin.ingest == ingest else replace(origin, ingest=ingest, association=str(uuid4()))
