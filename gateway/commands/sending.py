"""`gateway send`: DICOM files go out as they are, also out of ZIPs, and every one that did not arrive is named."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.uid import MediaStorageDirectoryStorage
from rich.console import Console
from rich.progress import Progress

from gateway.configuration.sections import Config
from gateway.dicom.filemeta import read_meta
from gateway.errors import ConfigError, DeliveryError, NotAdmitted, NotUnderstood
from gateway.ingest._archive import Archive, Member, is_archive
from gateway.peers import Peer, own_listener, send_many

_SHOWN = 20
_CHUNK, _HEAD = 256 * 1024, 4096


@dataclass(frozen=True)
class _Entry:
    """An instance in a ZIP; a file is made of it while it is sent. It is told by its position: its name is foreign text."""

    archive: Archive
    member: Member
    told: str

    def spool(self, file: Path) -> None:
        """Raises NotUnderstood where the entry is damaged."""
        with file.open("wb") as copy, self.archive.reading(self.member) as read:
            while part := read(_CHUNK):
                copy.write(part)


@dataclass
class _Found:
    """What there is to send, and of what is not: those that are no DICOM, and those that failed already."""

    files: list[Path | _Entry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def send_path(path: Path, peer: Peer, out: Console) -> int:
    """Send a file, a ZIP, or everything in a folder that is a PS3.10 file or a ZIP of them; returns how many did not arrive.

    Raises ConfigError where there is nothing to send.
    """
    with ExitStack() as opened:
        found = _find(path, opened)
        total = len(found.files) + len(found.failures)
        if not total:
            raise ConfigError([f"{path}: expected DICOM files (PS3.10)"])
        with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task(f"sending {len(found.files)} files", total=len(found.files))
            for name, problem in _sent(peer, found.files):
                progress.advance(task)
                if problem:
                    found.failures.append(f"{name}: {problem}")
    _tell("not sent", found.failures, out)
    _tell("no DICOM file (PS3.10), left out", found.left_out, out)
    _print(f"{total - len(found.failures)} of {total} arrived", out)
    return len(found.failures)


def _find(path: Path, opened: ExitStack) -> _Found:
    """A DICOMDIR describes instances and is none: it is passed over."""
    found = _Found()
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        try:
            with file.open("rb") as beginning:
                head = beginning.read(_HEAD)
        except OSError:  # it is not left out silently: it is sent, and fails
            found.files.append(file)
            continue
        if is_archive(head):
            _find_entries(file, found, opened)
        elif head[128:132] != b"DICM":
            found.left_out.append(str(file))
        elif not _is_directory(head):
            found.files.append(file)
    return found


def _find_entries(file: Path, found: _Found, opened: ExitStack) -> None:
    try:
        archive = opened.enter_context(Archive(opened.enter_context(file.open("rb")).fileno()))
    except NotUnderstood as error:
        found.failures.append(f"{file}: {error}")
        return
    for member in archive.members:
        told = f"{file}: entry {member.position}"
        try:
            with archive.reading(member) as read:
                head = read(_HEAD)
        except NotUnderstood as error:
            found.failures.append(f"{told}: {error}")
            continue
        if head[128:132] != b"DICM":
            found.left_out.append(told)
        elif not _is_directory(head):
            found.files.append(_Entry(archive, member, told))


def _is_directory(head: bytes) -> bool:
    try:
        meta = read_meta(head)
    except NotUnderstood:
        return False
    return meta is not None and meta.sop_class_uid == MediaStorageDirectoryStorage


def _sent(peer: Peer, files: Iterable[Path | _Entry]) -> Iterator[tuple[str, str]]:
    """Each by the name it is told by, and what was wrong. A copy out of a ZIP is there only until its outcome is known."""
    damaged: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="gateway-send-") as folder:
        names: dict[Path, str] = {}

        def paths() -> Iterator[Path]:
            for number, file in enumerate(files):
                if isinstance(file, Path):
                    yield file
                    continue
                copy = Path(folder, str(number))
                try:
                    file.spool(copy)
                except NotUnderstood as error:
                    copy.unlink()
                    damaged.append((file.told, str(error)))
                    continue
                names[copy] = file.told
                yield copy

        for path, outcome in send_many(peer, paths()):
            yield names.get(path, str(path)), str(outcome) if isinstance(outcome, DeliveryError) else ""
            if path in names:
                path.unlink()
        yield from damaged


def answering_listener(config: Config, calling_ae_title: str) -> Peer:
    """Our own; where it does not answer ConfigError is raised, one sentence instead of one for every file."""
    peer = own_listener(config, calling_ae_title)
    try:
        peer.echo()
    except NotAdmitted as error:
        whom = "say with --calling-ae-title whom it takes (calling_ae_titles, [[callers]])"
        raise ConfigError([f"this gateway does not take {calling_ae_title}: {error}; {whom}"]) from error
    except DeliveryError as error:
        where = f"{config.dimse.ae_title} at port {config.dimse.port}"
        raise ConfigError([f"this gateway ({where}) does not answer: {error}; start it with `gateway serve`"]) from error
    return peer


def _tell(what: str, lines: Iterable[str], out: Console) -> None:
    lines = list(lines)
    for line in lines[:_SHOWN]:
        _print(f"{what}: {line}", out)
    if len(lines) > _SHOWN:
        _print(f"{what}: {len(lines) - _SHOWN} more", out)


def _print(text: str, out: Console) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
