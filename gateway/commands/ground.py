"""Ground: whether this machine has what gateway.toml names: folders, room in them, addresses and ports, certificates of today.

Nothing is made.
"""

import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from gateway.commands.reach import Asked
from gateway.configuration.sections import Config
from gateway.machine.listening import why
from gateway.telling.certificates import lasting

_EVERY = {"0.0.0.0", "::", ""}  # noqa: S104 - looked for, not listened on


def found(config: Config) -> Iterator[Asked]:
    data_dir, store = config.gateway.data_dir, config.store_folder
    yield writable("data_dir", data_dir)
    if data_dir.exists() and data_dir.stat().st_mode & 0o007:
        what = f"images and passwords: chmod o-rwx {data_dir}"
        yield False, f"data_dir {data_dir}: everybody on this machine may look into it, at {what}"
    if config.store.folder or store.exists():
        good, text = writable("[store] folder", store)
        if config.store.folder or not good:
            yield good, text
    yield from _room(store, config.store.keep_free_bytes)
    for folder in config.folders:
        good = folder.path.is_dir()
        yield good, f"[[folders]] {folder.path}: " + ("is watched" if good else "there is no such folder")
    yield from _listening(config)
    now = datetime.now(UTC)
    yield from ((one.is_good(now), one.words) for one in lasting(config, config.peers))


def writable(name: str, folder: Path) -> Asked:
    """The folder, or the nearest one above it where it would be made."""
    near = _near(folder)
    if not near.is_dir():
        return False, f"{name} {folder}: {near} is no folder"
    try:
        with TemporaryFile(dir=near):
            pass
    except OSError as error:
        return False, f"{name} {folder}: {near} cannot be written: {error.strerror}"
    return True, f"{name} {folder}: can be written{'' if folder.exists() else ', will be made'}"


def _near(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _room(store: Path, keep_free_bytes: int) -> Iterator[Asked]:
    free = shutil.disk_usage(_near(store)).free
    if free < keep_free_bytes:
        wanted = f"[store] keep_free_bytes are {keep_free_bytes / 1024**3:.1f} GiB"
        yield False, f"store {store}: {free / 1024**3:.1f} GiB are free, and {wanted}: senders are told to come again"


class _Listening(NamedTuple):
    section: str
    key: str
    host: str
    port: int | None


def _listening(config: Config) -> Iterator[Asked]:
    every = (
        _Listening("[dimse]", "port", config.dimse.host, config.dimse.port),
        _Listening("[web]", "port", config.web.host, config.web.port),
        _Listening("[dimse]", "tls_port", config.dimse.host, config.dimse.tls_port),
        _Listening("[dicomweb]", "port", config.dicomweb.host, config.dicomweb.port),
    )
    doors = [one for one in every if one.port is not None]
    for section, host in dict.fromkeys((one.section, one.host) for one in doors):
        try:
            with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
                pass
        except OSError as error:
            yield False, f"{section} host {host}: nobody can listen there on this machine: {why(error)}"
    for one, other in combinations(doors, 2):
        is_same = one.host == other.host or not _EVERY.isdisjoint((one.host, other.host))
        if one.port and one.port == other.port and is_same:
            both = f"{one.section} {one.key} and {other.section} {other.key}"
            yield False, f"{both} are both {one.port}: expected one of its own for each"
