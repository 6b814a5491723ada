"""What a file in pipelines/ offers, and how such files are found.

A pipeline is one file: `PIPELINE = Pipeline(version, model, needs, run)`; `run(study, infer)` yields outputs. The file's
name is the pipeline's name in rules.yaml. A file without PIPELINE stops the start with its path.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.datadict import keyword_dict

from gateway.decisions.choose import LARGEST, ONLY, Which
from gateway.decisions.rank import SHARP, SOFT
from gateway.machine.plugins import files, load_each, load_file
from gateway.outputs import Output
from gateway.outputs.derived import DerivedImages

Arrays = Mapping[str, np.ndarray]
Infer = Callable[[Arrays], Arrays]


RUN, HOLD = "run", "hold"


@dataclass(frozen=True)
class Priors:
    """What a pipeline wants of the past: `at_most` studies of at most `days` before, each with a series of `modality`.

    `modality` "" is the pipeline's own. `body_parts` are values of Body Part Examined; empty: any. The job waits for them for
    `wait_seconds`; `without` says what becomes of it where none came: "run", or "hold" until a person says so.
    """

    at_most: int = 1
    days: int = 3650
    modality: str = ""
    body_parts: tuple[str, ...] = ()
    wait_seconds: float = 600
    without: str = RUN

    def __post_init__(self) -> None:
        _expect(self.without in (RUN, HOLD), f'without: "{RUN}" or "{HOLD}"')


@dataclass(frozen=True)
class Role:
    """Another series of the study that a pipeline wants beside its own; rules say by its name which series has that role.

    `needs` is what it must be, as of the pipeline's own series where left out. Without a required one there is no job.
    """

    name: str
    needs: "Needs | None" = None
    required: bool = True

    def __post_init__(self) -> None:
        _expect(isinstance(self.name, str) and self.name.isidentifier(), 'role: a name of letters, such as "adc"')
        own = self.needs
        is_plain = own is None or not (own.companions or own.priors or own.one_of_study)
        _expect(is_plain, "role: needs without companions, priors and one_of_study of their own")


@dataclass(frozen=True)
class Needs:
    """What the series must be, checked before the model is asked, and how its values are handed over.

    `modality` is one, or several of which the series has one: ("CR", "DX").
    `whole_numbers`: the volume comes as int16, rounded, instead of float32: what CT models take, in half the memory. Hounsfield
    units beyond are held within; another modality's values, such as Bq/ml of a PET, are refused where int16 does not hold them.
    `volume`: which it wants of a series that holds several (phases, echoes, b-values, time points): "only" refuses such a series,
    "largest" takes the largest regular one, {"EchoTime": 20} the one with these values.
    `one_of_study`: of the series of a study that rules want for it, it gets the best (rank.py) when the study is complete;
    `kernel`, "soft" or "sharp", says which is better.
    `priors`: it wants earlier studies of the patient beside the series (prior.py), and of each the volume as of the series.
    `companions`: it wants other series of the study beside its own, in the same frame of reference, when the study is complete.
    """

    modality: str | tuple[str, ...]
    slices_at_least: int = 1
    spacing_at_most_mm: float = float("inf")
    whole_numbers: bool = False
    volume: Which = ONLY
    one_of_study: bool = False
    kernel: str = SOFT
    priors: Priors | None = None
    companions: tuple[Role, ...] = ()

    def __post_init__(self) -> None:
        several = self.modality if isinstance(self.modality, tuple) else ()
        is_told = isinstance(self.modality, str) or (several != () and all(isinstance(one, str) and one for one in several))
        _expect(is_told, 'modality: "CT", or several, such as ("CR", "DX")')
        is_one = isinstance(self.volume, Mapping) and self.volume.keys() <= keyword_dict.keys()
        _expect(self.volume in (ONLY, LARGEST) or is_one, f'volume: "{ONLY}", "{LARGEST}", or values by DICOM keyword')
        _expect(self.kernel in (SOFT, SHARP), f'kernel: "{SOFT}" or "{SHARP}"')
        is_roles = isinstance(self.companions, tuple) and all(isinstance(role, Role) for role in self.companions)
        is_roles = is_roles and len({role.name for role in self.companions}) == len(self.companions)
        _expect(is_roles, 'companions: several of Role, each by a name of its own; one alone needs its comma: (Role("adc"),)')

    @property
    def modalities(self) -> tuple[str, ...]:
        return (self.modality,) if isinstance(self.modality, str) else self.modality

    def of(self, role: Role) -> "Needs":
        """What a companion must be."""
        return role.needs or replace(self, companions=(), priors=None, one_of_study=False)


@dataclass(frozen=True)
class Prior:
    """An earlier study: as in Study, and how many days before it was made."""

    volume: hd.Volume
    source: Sequence[Dataset]
    days_before: int


@dataclass(frozen=True)
class Companion:
    """Another series of the study: as in Study, on a grid of its own (imaging/regrid.py lays it on another)."""

    volume: hd.Volume
    source: Sequence[Dataset]


@dataclass(frozen=True)
class Study:
    """What a pipeline works on.

    `volume` is (slices, rows, columns) float32 (int16 where the pipeline needs whole numbers) after the modality LUT,
    Hounsfield units for CT; its affine is mm in LPS (PS3.3 C.7.6.2). `source` are the headers of the slices, in the
    volume's order, without pixels; each frame of an enhanced object has one of its own (enhanced.py). They are the pipeline's
    copies: what it changes in them changes no result.
    """

    volume: hd.Volume
    source: Sequence[Dataset]
    priors: Sequence[Prior] = ()
    """The newest first; fewer than the pipeline wants, or none, where there are no more."""
    companions: Mapping[str, Companion] = field(default_factory=dict)
    """By role; one that is not required may be missing."""


@dataclass(frozen=True)
class Pipeline:
    """`run(study, infer)` yields outputs, at least one; `infer` sends named arrays to the Triton model `model`, returns such."""

    version: str
    model: str
    needs: Needs
    run: Callable[[Study, Infer], Iterable[Output | DerivedImages]]

    def __post_init__(self) -> None:
        for name in ("version", "model"):
            _expect(isinstance(text := getattr(self, name), str) and text != "", f'{name}: a text, such as "1.0.0" or "lungs"')
        _expect(isinstance(self.needs, Needs), "needs: Needs(...)")
        _expect(callable(self.run), "run: a function of study and infer")

    @property
    def roles(self) -> Mapping[str, bool]:
        """The names of its companions, and whether it needs them: what rules are checked against."""
        return {role.name: role.required for role in self.needs.companions}


def load_pipelines(folders: Iterable[Path]) -> dict[str, Pipeline]:
    """Every file of `folders` by its name; later folders may not repeat a name. Raises ConfigError with the file's path."""
    return load_each(folders, _offered, kind="pipeline", expected="PIPELINE = gateway.pipeline.Pipeline(...)")


def names(folders: Iterable[Path]) -> list[str]:
    """Of the pipelines of `folders`, whether they can be loaded or not."""
    return [path.stem for path in files(folders)]


def _expect(is_so: bool, what: str) -> None:  # noqa: FBT001 - read as a sentence
    """Its author hears it when the file is loaded, not with the first patient."""
    if not is_so:
        raise ValueError(f"expected {what}")


def _offered(path: Path) -> Pipeline | None:
    offered = getattr(load_file(path, f"pipelines.{path.stem}"), "PIPELINE", None)
    return offered if isinstance(offered, Pipeline) else None
