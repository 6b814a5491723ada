"""The section [completeness] of gateway.toml: how long a series is waited for, and what is believed of it, by its sender."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.configuration.forms import AeTitle, Section
from gateway.configuration.settings import listed, some
from gateway.decisions.completeness import Policy, Where

Signal = Literal["performed", "source", "geometry", "declared", "numbers", "association"]


class CompletenessWhere(Section):
    """For some series another policy; the first that fits says, and what it leaves out is as in [completeness]."""

    modality: Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(some)] | None = None
    calling_ae_title: Annotated[tuple[AeTitle, ...], BeforeValidator(listed), AfterValidator(some)] | None = None
    quiet_seconds: float | None = Field(default=None, ge=0)
    settle_seconds: float | None = Field(default=None, ge=0)
    deadline_seconds: float | None = Field(default=None, gt=0)
    at_deadline: Literal["partial", "hold", "fail"] | None = None
    source: str | None = None
    ignore: tuple[Signal, ...] | None = None
    one_association: bool | None = None


class CompletenessSection(Section):
    quiet_seconds: float = Field(default=10, ge=0)
    """Where nothing else says whether a series is whole, it is after so long without an instance."""
    settle_seconds: float = Field(default=0.5, ge=0)
    """So long after its last instance, when its associations have ended, the headers are looked at."""
    deadline_seconds: float = Field(default=3600, gt=0)
    """How long a series waits for what is missing, or for an association that never ends."""
    at_deadline: Literal["partial", "hold", "fail"] = "hold"
    """What becomes then of one that lacks something and that a rule wants: it runs and says so, waits for a person, or fails."""
    source: str = ""
    """The peer that series come from: it is asked how many instances they have."""
    ignore: tuple[Signal, ...] = ()
    """Evidence that is not believed."""
    one_association: bool = False
    """Whoever sends a series sends it over one association: when that was released, the series is whole."""
    study_quiet_seconds: float = Field(default=60, ge=0)
    """A study is complete when its series are, and none of them had an instance for so long."""
    where: tuple[CompletenessWhere, ...] = ()

    @property
    def policy(self) -> Policy:
        mine = self.model_dump(exclude={"where", "study_quiet_seconds"})
        return Policy(**mine, where=tuple(_where(one, mine) for one in self.where))


class PriorsSection(Section):
    peers: tuple[str, ...] = ()
    """The peers that are asked for earlier studies, in this order, where a pipeline wants some."""


def _where(one: CompletenessWhere, default: dict[str, Any]) -> Where:
    own = one.model_dump(exclude={"modality", "calling_ae_title"}, exclude_none=True)
    return Where(Policy(**{**default, **own}), one.modality or (), one.calling_ae_title or ())
