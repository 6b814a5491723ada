"""`gateway send`: DICOM files go out as they are, with a progress bar, and every one that did not arrive is named."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from gateway.app import plan
from gateway.config import Config
from gateway.errors import ConfigError, DeliveryError
from gateway.peers import Peer, load_protocols, make_peer, send_many

_SHOWN = 20


def send_path(path: Path, config: Config, *, to: str | None, calling_ae_title: str, out: Console) -> int:
    """Send a file, or everything in a folder that is a PS3.10 file; returns how many did not arrive.

    `to` None: this gateway's own listener. Raises ConfigError where there is no such peer, or nothing to send.
    """
    peer = _answering_listener(config, calling_ae_title) if to is None else configured_peer(config, to)
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    files = [file for file in found if is_part10(file)]
    if not files:
        raise ConfigError([f"{path}: expected DICOM files (PS3.10)"])
    failures = []
    with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(f"sending {len(files)} files", total=len(files))
        for file, outcome in send_many(peer, files):
            progress.advance(task)
            if isinstance(outcome, DeliveryError):
                failures.append(f"{file}: {outcome}")
    _tell("not sent", failures, out)
    _tell("no DICOM file (PS3.10), left out", [str(file) for file in found if file not in set(files)], out)
    _print(f"{len(files) - len(failures)} of {len(files)} arrived", out)
    return len(failures)


def own_listener(config: Config, calling_ae_title: str, port: int | None = None) -> Peer:
    """The way any scanner reaches this gateway."""
    host = "127.0.0.1" if config.dimse.host in ("0.0.0.0", "::", "") else config.dimse.host  # noqa: S104 - compared, not bound
    settings = {
        "name": "this gateway", "protocol": "dimse", "host": host, "port": port or config.dimse.port,
        "ae_title": config.dimse.ae_title, "calling_ae_title": calling_ae_title,
    }  # fmt: skip
    return make_peer(settings, protocols=load_protocols())


def configured_peer(config: Config, name: str) -> Peer:
    peers = plan(config).peers
    if name not in peers:
        raise ConfigError([f"there is no peer {name!r}; the configuration has {', '.join(peers) or 'none'}"])
    return peers[name]


def is_part10(file: Path) -> bool:
    """Whether the file has the prefix of PS3.10 7.1; one that cannot be opened is not left out silently, it is sent and fails."""
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return True


def _answering_listener(config: Config, calling_ae_title: str) -> Peer:
    """One sentence where there is nobody to send to, instead of one for every file."""
    peer = own_listener(config, calling_ae_title)
    try:
        peer.echo()
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
