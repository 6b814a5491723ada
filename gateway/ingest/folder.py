"""A watched folder: PS3.10 files, and ZIPs of them, that are laid there come in through the door like any other instance.

It looks about once a second with plain scandir, which sees a network share as well; inotify is told nothing of what others
write there. A file is complete when its size and time have not changed for a while. What is not whole then may be on its way over
a slow line, and is looked at once more, much later: who writes with longer breaks writes NAME.part, or .NAME, and renames it. A
file is removed, or moved, only after everything in it was promised; after a crash it is read again, and the same bytes are a
repetition.
"""

import os
import threading
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import structlog
from pydicom.uid import MediaStorageDirectoryStorage

from gateway import log
from gateway.dicom.filemeta import FOREIGN_PREAMBLE, Meta, read_meta
from gateway.dicom.instance import Incoming, Origin
from gateway.doors.door import Door
from gateway.errors import NotSupported, NotUnderstood, OutOfResources, Refused
from gateway.ingest import Terms
from gateway.ingest._archive import Archive, Read, is_archive
from gateway.ingest._place import Changed, Place, Stamp, find

REFUSED, DONE = "refused", "done"
_UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".crdownload", "~")
_CHUNK = 256 * 1024
_DEEPEST = 16
_BATCH_SECONDS = 60.0  # a burst without end is cut here, so that no series in it waits for its deadline
_GRACE_SECONDS = 5.0
_PAUSES = 10  # times as long as it took to find nothing
_TOLD = 200

_logger = structlog.get_logger()


class Folder:
    """Watched until it is closed, by a thread of its own. What comes in one burst counts as one association.

    `keep`: files that were taken are moved to `done` instead of removed. What is refused is moved to `refused`, with the reason
    beside it.
    """

    port = 0

    def __init__(
        self,
        path: Path,
        *,
        door: Door,
        quiet_seconds: float,
        patience_seconds: float,
        terms: Terms,
        keep: bool = False,
        look_seconds: float = 1.0,
        retry_seconds: float = 10.0,
    ) -> None:
        self._path, self._door, self._keep, self._terms = path, door, keep, terms
        self._quiet, self._patience = quiet_seconds, patience_seconds
        self._look_seconds, self._retry = look_seconds, retry_seconds
        self._seen: dict[str, tuple[Stamp, float]] = {}
        """Each file as it was at the last look, and since when."""
        self._settled: dict[str, Stamp] = {}
        """Files that stay where they are, and need not be read again while they do."""
        self._doubted: dict[str, Stamp] = {}
        """Files that were not whole, and are looked at once more when they have been so for longer."""
        self._told: set[str] = set()
        """What the log was told of already, by path; the folder itself is ""."""
        self._origin: Origin | None = None
        self._began = self._paused_until = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="folder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A file that is being read is left, and read again after the next start."""
        self._stopping.set()
        self._thread.join(_GRACE_SECONDS)

    def _watch(self) -> None:
        pause = self._look_seconds
        while not self._stopping.wait(pause):
            began = time.thread_time()
            try:
                busy = self._look()
            except OSError as error:
                busy = False
                self._tell("", "folder.unreadable", error)
            cost = 0.0 if busy else time.thread_time() - began
            pause = max(self._look_seconds, _PAUSES * cost)  # folders that were emptied stay, and grow many
            if not busy or time.monotonic() - self._began > _BATCH_SECONDS:
                self._end()
        self._end()

    def _end(self) -> None:
        if self._origin is not None:
            self._door.end(self._origin)
            self._origin = None

    def _batch(self) -> Origin:
        if self._origin is None:
            self._origin, self._began = Origin("folder", str(uuid4()), address=str(self._path)), time.monotonic()
        return self._origin

    # Looking

    def _look(self) -> bool:
        """Settle what is complete; whether anything was. The folder itself may be a link, in it none is followed."""
        last, self._seen, busy = self._seen, {}, False
        root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for within, folders, names, descriptor in os.fwalk(".", dir_fd=root, onerror=self._closed_folder):
                folders[:] = _entered(within, folders)
                for name in filter(_is_visible, sorted(names)):
                    if self._stopping.is_set():
                        return busy
                    place = find(root, descriptor, within, name)
                    if place is not None and self._is_complete(place, last):
                        busy = True
                        self._settle(place)
        finally:
            os.close(root)
        self._settled = {path: stamp for path, stamp in self._settled.items() if path in self._seen}
        self._doubted = {path: stamp for path, stamp in self._doubted.items() if path in self._seen}
        self._told = {path for path in self._told if path in self._seen or path.endswith("/")}
        return busy

    def _is_complete(self, place: Place, last: dict[str, tuple[Stamp, float]]) -> bool:
        """An empty file never is: somebody is about to fill it."""
        now = time.monotonic()
        stamp, since = last.get(place.path, (place.stamp, now))
        self._seen[place.path] = (place.stamp, since if stamp == place.stamp else now)
        wait = self._patience if self._doubted.get(place.path) == place.stamp else self._quiet
        quiet = now - self._seen[place.path][1] >= wait
        return quiet and place.stamp[0] > 0 and self._settled.get(place.path) != place.stamp

    def _closed_folder(self, error: OSError) -> None:
        self._tell(f"{error.filename}/", "folder.unreadable", error)

    def _tell(self, path: str, event: str, error: Exception) -> None:
        """Once. The watched folder is named, nothing in it: exporters name files after patients."""
        if path not in self._told:
            self._told.add(path)
            _logger.warning(event, path=str(self._path), error=type(error).__name__)

    # One file

    def _settle(self, place: Place) -> None:
        """Whatever keeps a file from being read to its end leaves it where it is."""
        if time.monotonic() < self._paused_until:
            return
        try:
            refusals = self._read(place)
        except Changed:
            return
        except OutOfResources as error:  # no room for this one is no room for any
            self._door.refuse(self._batch(), error)
            self._paused_until = time.monotonic() + self._retry
        except OSError as error:
            self._tell(place.path, "file.unreadable", error)
            self._seen[place.path] = (place.stamp, time.monotonic() + self._retry)
        except Exception as error:  # noqa: BLE001 - boundary: one file must not keep the others out
            _logger.error("file.failed", path=str(self._path), error=type(error).__name__, stack=log.stack_without_values(error))
            self._settled[place.path] = place.stamp
        else:
            self._put_away(place, refusals)

    def _put_away(self, place: Place, refusals: list[str] | None) -> None:
        try:
            if refusals is None:
                self._settled[place.path] = place.stamp
            elif refusals:
                more = [f"and {len(refusals) - _TOLD} more"] if len(refusals) > _TOLD else []
                place.move(REFUSED, "\n".join(["Not taken:", *refusals[:_TOLD], *more, ""]))
            elif self._keep:
                place.move(DONE)
            else:
                place.remove()
        except OSError as error:
            self._settled[place.path] = place.stamp
            self._tell(place.path, "file.not_removed", error)

    def _read(self, place: Place) -> list[str] | None:
        """Why it was refused, a sentence for each instance that was; None where it is to be left as it is."""
        with place.open() as descriptor:
            if place.has_hole(descriptor):
                self._doubt(place)
            try:
                if is_archive(os.pread(descriptor, 132, 0)):
                    return self._read_archive(place, descriptor)
                read = self._watched(partial(os.read, descriptor), place, descriptor)
                return [] if self._take(read, place.stamp[0]) else None
            except OutOfResources:
                raise
            except Refused as error:
                place.check(descriptor)  # what is being written over is not judged
                if isinstance(error, NotUnderstood):
                    self._doubt(place)
                self._door.refuse(self._batch(), error)
                return [str(error)]

    def _doubt(self, place: Place) -> None:
        """Raise Changed the first time that it is found like this."""
        if self._doubted.get(place.path) != place.stamp:
            self._doubted[place.path] = place.stamp
            raise Changed

    def _watched(self, read: Read, place: Place, descriptor: int) -> Read:
        """No end without a last look at the file: if it has changed, its end is not the one that was to come."""

        def read_on(count: int) -> bytes:
            if self._stopping.is_set():
                raise Changed
            part = read(count)
            if not part:
                place.check(descriptor)
            return part

        return read_on

    def _read_archive(self, place: Place, descriptor: int) -> list[str]:
        """Its good instances are taken, whatever the others are. Raises Refused where nothing is."""
        taken, refusals = 0, []
        with Archive(descriptor) as archive:
            for member in archive.members:
                try:
                    with archive.reading(member) as read:
                        taken += self._take(self._watched(read, place, descriptor), member.size)
                except OutOfResources:
                    raise
                except Refused as error:
                    place.check(descriptor)
                    self._door.refuse(self._batch(), error)
                    refusals.append(f"entry {member.position}: {error}")
        if not (taken or refusals):
            raise NotUnderstood("expected PS3.10 files in the ZIP")
        return refusals

    def _take(self, read: Read, size: int) -> bool:
        """Take one PS3.10 file of `size` bytes; False for a DICOMDIR, which describes instances and is none. Raises Refused."""
        meta, head = _head(read)
        if meta.sop_class_uid == MediaStorageDirectoryStorage:
            return False
        self._check(meta, size)
        incoming = Incoming(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)
        with self._door.open(incoming, self._batch(), maximum_bytes=self._terms.maximum_instance_bytes) as arrival:
            part = head[meta.offset :] or read(_CHUNK)
            while part:
                arrival.write(part)
                part = read(_CHUNK)
            arrival.keep()
        if not meta.preamble_is_plain:
            self._door.alarm(self._batch(), incoming, FOREIGN_PREAMBLE)
        return True

    def _check(self, meta: Meta, size: int) -> None:
        if meta.sop_class_uid not in self._terms.sop_classes:
            raise NotSupported("expected a SOP class of Storage")
        if meta.transfer_syntax_uid not in self._terms.transfer_syntaxes:
            raise NotSupported("expected a transfer syntax that the gateway can decode")
        if size - meta.offset > self._terms.maximum_instance_bytes:
            raise NotUnderstood(f"expected at most {self._terms.maximum_instance_bytes} bytes")


def _head(read: Read) -> tuple[Meta, bytes]:
    """The file meta, and what was read to find it."""
    head = b""
    while (meta := read_meta(head)) is None:
        part = read(_CHUNK)
        if not part:
            raise NotUnderstood("expected a PS3.10 file with a data set")
        if is_archive(part) and not head:
            raise NotUnderstood("expected no archive in an archive")
        head += part
    return meta, head


def _entered(within: str, folders: list[str]) -> list[str]:
    """The folders in that one which are looked into."""
    if within.count("/") >= _DEEPEST:
        return []
    return sorted(name for name in folders if _is_visible(name) and not (within == "." and name in (REFUSED, DONE)))


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith(_UNFINISHED)
