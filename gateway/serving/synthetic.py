"""The synthetic study's own rule, beside those of the database (rehearsal.py)."""

from collections.abc import Collection, Iterable

from gateway.configuration.sections import SYNTHETIC, Config
from gateway.decisions.rules import RuleSet, load
from gateway.errors import ConfigError

_RULE = """\
rules:
  - name: synthetic study
    when: {{all: [{{attribute: QualityControlImage, is: "YES"}}]}}
    pipeline: {pipeline}
    send_to: [{peer}]
    priority: background
"""


def rules(config: Config, *, pipelines: Collection[str], peers: Iterable[str]) -> RuleSet | None:
    """Its own, and no other; None where there are no synthetic studies. Raises ConfigError for an unknown pipeline or peer."""
    section = config.synthetic
    if not section.every_minutes:
        return None
    peers, name = tuple(peers), section.peer or SYNTHETIC
    problems = [] if section.pipeline in pipelines else [f"[synthetic] pipeline: expected one of {', '.join(pipelines)}"]
    problems += [] if name in peers else [f"[synthetic] peer: expected one of {', '.join(peers)}"]
    if problems:
        raise ConfigError(problems)
    return load(_RULE.format(pipeline=section.pipeline, peer=name), pipelines=pipelines, peers=peers)
