"""Plan: a configuration whose pipelines, peers and rules were found and understood, or everything that is wrong with them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import gateway
from gateway.acts.rulebook import read
from gateway.configuration.sections import Config
from gateway.configuration.webkeys import WebSection, client_secret
from gateway.decisions.rules import RuleSet
from gateway.errors import ConfigError
from gateway.machine.tls import ServerContext
from gateway.peers import Peer, load_protocols, made
from gateway.pipeline import Pipeline, load_pipelines
from gateway.pipeline import names as names_of
from gateway.serving import synthetic
from gateway.telling.notices import Addressee, addressee, load_ways

_HOME = Path(gateway.__file__).parent.parent

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A configuration whose every part was found and understood."""

    config: Config
    pipelines: Mapping[str, Pipeline]
    peers: Mapping[str, Peer]
    rules: RuleSet
    addressees: tuple[Addressee, ...] = ()
    """Who is told of what happens."""
    synthetic: RuleSet | None = None
    """The only rule for synthetic studies; None where there are none."""

    @property
    def model_folders(self) -> tuple[Path, ...]:
        return (_HOME / "triton_models", *self.config.triton.models)


def plan(config: Config, *, added: Iterable[str] = (), with_rules: bool = True) -> Plan:
    """Load pipelines, peers and rules; raise ConfigError with everything that is wrong with any of them.

    `added` are the names of peers that are in the database: rules may name them too. Without rules for who serves: the database
    has the ones that count (rulebook.py).
    """
    problems: list[str] = []
    folders = (_HOME / "pipelines", *config.gateway.pipelines)
    pipelines = _collected(problems, lambda: load_pipelines(folders)) or {}
    offered: Collection[str] = pipelines or names_of(folders)  # a file that cannot be loaded does not make its rules wrong too
    protocols = _collected(problems, load_protocols) or {}
    peers = {}
    for table in config.peers:
        peer = _collected(problems, partial(made, table, config=config, protocols=protocols))
        if peer is not None:
            peers[str(table.get("name"))] = peer
    addressees = _addressees(config, offered, problems)
    if config.tls.certificate:
        _collected(problems, lambda: ServerContext(**config.tls.model_dump()))
    problems += _web_problems(config.web)
    names = [*dict.fromkeys((*(str(table.get("name")) for table in config.peers), *added))]
    problems += _unknown_sources(config, names)
    rehearsed = _collected(problems, partial(synthetic.rules, config, pipelines=offered, peers=names))
    rules = _collected(problems, lambda: _rules(config.rules.file, offered, names)) if with_rules else RuleSet("", ())
    if problems or rules is None:
        raise ConfigError(problems)
    return Plan(config, pipelines, peers, rules, addressees, rehearsed)


def _addressees(config: Config, pipelines: Collection[str], problems: list[str]) -> tuple[Addressee, ...]:
    ways = _collected(problems, load_ways) or {}
    make = partial(addressee, ways=ways, source=config.audit.source, console=config.web.url)
    found = [one for table in config.notices if (one := _collected(problems, partial(make, table))) is not None]
    known = f"expected some of: {', '.join(pipelines)}"
    problems += [f"notice {one.name}: pipelines: {known}" for one in found if one.pipelines and one.pipelines - set(pipelines)]
    return tuple(found)


def _web_problems(web: WebSection) -> list[str]:
    """Found out before anything is served, so that the console's files never stop what serves already."""
    problems: list[str] = []
    if web.certificate and web.key:
        _collected(problems, partial(ServerContext.of_console, web.certificate, web.key))
    if web.oidc:
        _collected(problems, partial(client_secret, web.oidc))
    return problems


def _unknown_sources(config: Config, names: Sequence[str]) -> list[str]:
    known = f"expected one of the [[peers]]: {', '.join(names) or 'there are none'}"
    sources = {config.completeness.source, *(one.source for one in config.completeness.where)}
    places = (("[completeness] source", {source for source in sources if source}), ("[priors] peers", set(config.priors.peers)))
    return [f"{place}: {known}" for place, named in places if named - set(names)]


def _collected(problems: list[str], load: Callable[[], T]) -> T | None:
    try:
        return load()
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _rules(file: Path, pipelines: Collection[str], peers: Collection[str]) -> RuleSet:
    """Without a file there are no rules: every series is kept and none is worked on."""
    return read(file, pipelines=pipelines, peers=peers)[1] if file.exists() else RuleSet("", ())
