"""A folder: StudyInstanceUID/SeriesInstanceUID/SOPInstanceUID.dcm, whole and durable or not there at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydicom import dcmread

from gateway.errors import Rejected, Unreachable
from gateway.machine.disk import sync_folder
from gateway.outputs.kinds import OBJECTS
from gateway.peers import (
    DUPLICATE,
    NOT_SUPPORTED,
    NOT_UNDERSTOOD,
    STORED,
    Capability,
    Proof,
    Sent,
    Sought,
    is_few,
    is_rate,
    is_text,
    one_of,
    read_settings,
    setting,
)
from gateway.peers._part10 import raw_uid, unreadable

_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """`path` must exist: a share that is not mounted is waited for, not written beside."""

    name: str = setting("a name", is_text)
    path: str = setting("the path of a folder", is_text)
    proof: Proof = setting(*one_of(Proof.READ_BACK, Proof.NONE), make=Proof)
    concurrency: int = setting("a whole number from 1 to 64", is_few, 2)
    per_minute: int | None = setting("a whole number, 1 or more", is_rate, None)
    objects: Sequence[str] | None = setting(*OBJECTS)

    def holds(self, sought: Sought) -> bool:
        """Read back, and compared with ours; raises Unreachable where the folder is away: then nothing is known."""
        target = Path(self.path) / sought.study_instance_uid / sought.series_instance_uid / f"{sought.sop_instance_uid}.dcm"
        try:
            source = sought.path.open("rb")
        except OSError as error:
            raise unreadable(error) from error
        with source, _using("read"):
            Path(self.path).stat()
            return target.is_file() and _same(source, target)

    def patient_of(self, study_instance_uid: str) -> str | None:  # noqa: ARG002 - a Peer's
        """A folder has studies and no patients."""
        return None

    def request_commitment(self, transaction_uid: str, instances: Sequence[tuple[str, str]]) -> None:  # noqa: ARG002 - a Peer's
        raise Rejected(NOT_SUPPORTED, 'a folder has no storage commitment: expected proof = "read-back" or "none"')

    def send(self, path: Path) -> Sent:
        """Raises Rejected(0x0111) where another instance has this SOP Instance UID: it is neither replaced nor called delivered.

        That number is what PS3.7 Annex C has for a UID that is already given to another; the bytes never change, so
        trying again is of no use, and which of the two is right is for a person to say.
        """
        target = self._target(path)
        try:
            source = path.open("rb")
        except OSError as error:
            raise unreadable(error) from error
        with source, _using("written"):
            return self._write(source, target)

    def echo(self) -> str:
        probe = Path(self.path) / f".{secrets.token_hex(8)}.part"
        with _using("written"):
            try:
                probe.write_bytes(b"\0" * 4096)
            finally:
                probe.unlink(missing_ok=True)
        return "the folder can be written"

    def probe(self) -> list[Capability]:
        """Whether it can be written, which says that it can be read back too; and how much room there is."""
        self.echo()
        with _using("read"):
            free = shutil.disk_usage(self.path).free
        return [Capability("can be written", works=True, note=f"{free / 1e9:.1f} GB free")]

    def _target(self, path: Path) -> Path:
        try:
            ds = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
        except OSError as error:
            raise unreadable(error) from error
        except Exception as error:  # a reader of foreign bytes
            raise Rejected(NOT_UNDERSTOOD, "expected a PS3.10 file") from error
        study, series, instance = (raw_uid(ds, keyword) for keyword in _KEYWORDS)
        return Path(self.path) / study / series / f"{instance}.dcm"

    def _write(self, source: BufferedReader, target: Path) -> Sent:
        root, study, series = Path(self.path), target.parent.parent, target.parent
        mode = root.stat().st_mode & 0o7777  # who may read results is said by the folder that they go to, and its group
        for folder in (study, series):
            if not folder.exists():
                folder.mkdir(exist_ok=True)
                _permit(folder, mode)
        if target.exists():
            if not _same(source, target):
                raise Rejected(DUPLICATE, "another instance with this SOP Instance UID is there; it was not replaced")
        else:
            _copy(source, target, mode & 0o666)
        for folder in (series, study, root):  # also for what an earlier attempt left: it may have died before this
            sync_folder(folder)
        return Sent(STORED, "stored")


def peer(settings: Mapping[str, object]) -> Folder:
    return read_settings(Folder, settings)


@contextmanager
def _using(how: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreachable(f"the folder cannot be {how}: {error.strerror or type(error).__name__}") from error


def _copy(source: BufferedReader, target: Path, mode: int) -> None:
    part = target.with_name(f".{target.stem}.part")  # what a killed attempt left is written over
    try:
        with part.open("wb") as written:
            shutil.copyfileobj(source, written, 1024 * 1024)
            written.flush()
            _permit(part, mode)
            os.fsync(written.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _permit(place: Path, mode: int) -> None:
    """Where the file system has permissions: a share that has none takes results all the same."""
    with suppress(PermissionError):
        place.chmod(mode)


def _same(source: BufferedReader, target: Path) -> bool:
    """From the disk: what the system only remembers of it proves nothing."""
    with target.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(source, "sha256").digest() == hashlib.file_digest(file, "sha256").digest()
