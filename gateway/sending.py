"""`gateway send`: files go out by C-STORE as they are, with a progress bar, and every one that did not arrive is named."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from gateway.app import plan
from gateway.config import Config
from gateway.errors import ConfigError, DeliveryError
from gateway.peers import Peer, load_protocols, make_peer, send_many


def send_path(path: Path, config: Config, *, to: str | None, calling_ae_title: str, out: Console) -> int:
    """Send a file, or everything in a folder; returns how many did not arrive. `to` None: this gateway's own listener."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise ConfigError([f"{path}: expected DICOM files"])
    failures = []
    with Progress(console=out) as progress:
        task = progress.add_task(f"sending {len(files)} files", total=len(files))
        for file, result in send_many(_peer(config, to, calling_ae_title), files):
            progress.advance(task)
            if isinstance(result, DeliveryError):
                failures.append((file, result))
    for file, error in failures[:20]:
        out.print(f"[red]not sent[/] {file}: {error}", highlight=False)
    if len(failures) > 20:
        out.print(f"... and {len(failures) - 20} more", highlight=False)
    out.print(f"{len(files) - len(failures)} of {len(files)} arrived", highlight=False)
    return len(failures)


def own_listener(config: Config, calling_ae_title: str, port: int | None = None) -> Peer:
    """The way any scanner reaches this gateway."""
    host = "127.0.0.1" if config.dimse.host in ("0.0.0.0", "::", "") else config.dimse.host  # noqa: S104 - compared, not bound
    settings = {
        "name": "this gateway", "protocol": "dimse", "host": host, "port": port or config.dimse.port,
        "ae_title": config.dimse.ae_title, "calling_ae_title": calling_ae_title,
    }  # fmt: skip
    return make_peer(settings, protocols=load_protocols())


def _peer(config: Config, to: str | None, calling_ae_title: str) -> Peer:
    if to is None:
        return own_listener(config, calling_ae_title)
    peers = plan(config).peers
    if to not in peers:
        raise ConfigError([f"there is no peer {to!r}; the configuration has {', '.join(peers) or 'none'}"])
    return peers[to]
