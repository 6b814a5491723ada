"""`gateway check`: everything that is wrong with a configuration, at once and in words; nothing is changed by it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway.app import Plan, plan
from gateway.config import Config, load
from gateway.db import open_engine
from gateway.errors import ConfigError, GatewayError
from gateway.peers import Peer
from gateway.triton import Triton
from gateway.tritonserver import problems


@dataclass(frozen=True)
class Finding:
    good: bool
    text: str


def check_all(path: Path | None) -> list[Finding]:
    """Keys first; where they hold, pipelines, rules, database, peers and models, each of them whatever the others say."""
    try:
        config = load(path)
    except ConfigError as error:
        return [Finding(good=False, text=problem) for problem in error.problems]
    return [Finding(good=True, text=f"{path or 'defaults'}: every key is known"), *_parts(config)]


def _parts(config: Config) -> Iterator[Finding]:
    yield _database(config.database_url)
    try:
        ready = plan(config)
    except ConfigError as error:
        yield from (Finding(good=False, text=problem) for problem in error.problems)
        return
    yield Finding(good=True, text=f"pipelines: {', '.join(ready.pipelines)}")
    rules = ready.rules.rules
    file = config.rules.file
    names = ", ".join(rule.name for rule in rules)
    yield Finding(bool(rules), f"{file}: {names}" if rules else f"{file}: there are no rules: series are kept, none is worked on")
    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(_echo, ready.peers.items())
    yield from _models(ready)


def _database(url: str) -> Finding:
    if url.startswith("sqlite"):
        folder = Path(url.removeprefix("sqlite:///")).parent
        near = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        return Finding(good=near.is_dir(), text=f"database: SQLite in {folder}")
    try:
        with open_engine(url).connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        return Finding(good=False, text=f"database: cannot be reached ({type(error).__name__}): check [database] url")
    return Finding(good=True, text="database: PostgreSQL answers")


def _echo(named: tuple[str, Peer]) -> Finding:
    name, peer = named
    try:
        return Finding(good=True, text=f"peer {name}: {peer.echo()}")
    except GatewayError as error:
        return Finding(good=False, text=f"peer {name}: {error}")


def _models(ready: Plan) -> Iterator[Finding]:
    wanted = {pipeline.model: name for name, pipeline in ready.pipelines.items()}
    section = ready.config.triton
    if section.url == "embedded":
        yield from (Finding(good=False, text=problem) for problem in problems(section.environment))
        served = {folder.name for repository in ready.model_folders for folder in repository.glob("*/")}
    else:
        triton = Triton(section.url, timeout_seconds=5)
        try:
            served = {name for name, is_ready in triton.models().items() if is_ready}
        except GatewayError as error:
            yield Finding(good=False, text=f"Triton at {section.url}: {error}")
            return
        finally:
            triton.close()
    for model, pipeline in wanted.items():
        where = "the model folders" if section.url == "embedded" else f"Triton at {section.url}"
        good = model in served
        yield Finding(good, f"model {model}: {'served' if good else f'missing in {where}; pipeline {pipeline} needs it'}")
