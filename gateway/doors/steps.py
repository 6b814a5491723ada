"""Which procedure steps there are, and which have ended: what the doors of all processes must agree on before they answer.

One small file for each step, named by its UID; who begins or changes one holds the lock of the folder meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from gateway.dicom.modality import FINAL, StepState
from gateway.errors import DuplicateInstance, NoSuchInstance, NotChangeable
from gateway.machine.disk import sync_folder

_LOCK, _NEW = "lock", "new"


class Steps:
    """In `folder`, which is made when the first step comes. Every method raises OSError where the disk does not take it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def begin(self, sop_instance_uid: str) -> Iterator[None]:
        """The step exists once the block has ended well. Raises DuplicateInstance."""
        with self._locked():
            if self._path(sop_instance_uid).exists():
                raise DuplicateInstance("expected a SOP Instance UID that no other procedure step has")
            yield
            self._write(sop_instance_uid, StepState.IN_PROGRESS)

    @contextmanager
    def change(self, sop_instance_uid: str, state: str) -> Iterator[None]:
        """It is in `state` once the block has ended well; empty: in the one it was. Raises NoSuchInstance or NotChangeable."""
        with self._locked():
            path = self._path(sop_instance_uid)
            if not path.exists():
                raise NoSuchInstance("expected a procedure step that was begun")
            if path.read_text() in FINAL:
                raise NotChangeable("Performed Procedure Step Object may no longer be updated")
            yield
            if state:
                self._write(sop_instance_uid, state)

    def forget(self, before: datetime) -> None:
        """Those that were begun, or changed, before that."""
        if not self._folder.exists():
            return
        with self._locked():
            for path in self._folder.iterdir():
                if path.name not in (_LOCK, _NEW) and path.stat().st_mtime < before.timestamp():
                    path.unlink()

    def _path(self, sop_instance_uid: str) -> Path:
        """Of a UID that was checked."""
        return self._folder / sop_instance_uid

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write(self, sop_instance_uid: str, state: str) -> None:
        new = self._folder / _NEW
        with new.open("w") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._path(sop_instance_uid))
        sync_folder(self._folder)
