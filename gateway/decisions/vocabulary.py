"""What rules may speak of: attributes by DICOM keyword (PS3.6), typed by their VR (PS3.5 6.2), and the facts of a series."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_dict

from gateway.errors import ConfigError

TEXT, WHOLE, NUMBER, FLAG, OTHER = "text", "a whole number", "a number", "true or false", "nothing to compare"

# facts.py says what each of them means.
FACTS: Mapping[str, str] = MappingProxyType(
    {
        "slices": WHOLE,
        "instances": WHOLE,
        "spacing_mm": NUMBER,
        "orientation": TEXT,
        "regular": FLAG,
        "volumes": WHOLE,
        "regular_volumes": WHOLE,
        "volume_slices": WHOLE,
        "volume_spacing_mm": NUMBER,
        "localizer": FLAG,
        "derived": FLAG,
        "multiframe": FLAG,
        "ours": FLAG,
        "results": FLAG,
        "calling_ae_title": TEXT,
        "called_ae_title": TEXT,
        "ingest": TEXT,
        "caller": TEXT,
        "weekday": TEXT,
        "time_of_day": TEXT,
    }
)

# Found values of these alone are told to whoever asks why: the machine or its protocol sets them. Descriptions and protocol
# names are free text into which people's names get typed; dates, UIDs and numbers point at somebody.
SHOWN = frozenset(
    (
        "Modality",
        "BodyPartExamined",
        "ImageType",
        "SliceThickness",
        "SpacingBetweenSlices",
        "PixelSpacing",
        "ImageOrientationPatient",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "ConvolutionKernel",
        "Manufacturer",
        "ManufacturerModelName",
        "KVP",
        "GantryDetectorTilt",
        "PatientPosition",
        "ScanOptions",
        "ScanningSequence",
        "SequenceVariant",
        "MRAcquisitionType",
        "MagneticFieldStrength",
        "EchoTime",
        "RepetitionTime",
        "InversionTime",
        "FlipAngle",
        "DiffusionBValue",
        "PhotometricInterpretation",
        "SamplesPerPixel",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "Laterality",
        "ImageLaterality",
        "ViewPosition",
        "LossyImageCompression",
        "ReconstructionDiameter",
        "DataCollectionDiameter",
    )
)

_KINDS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"), TEXT)
    | dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"), WHOLE)
    | dict.fromkeys(("DS", "FD", "FL"), NUMBER)
)


@dataclass(frozen=True)
class Varying:
    """An attribute that is not the same in all instances of the series; None stands for the instances without it."""

    values: tuple[object, ...]


@dataclass(frozen=True)
class Subject:
    """What a condition looks at: a fact, or an attribute; `many` says that it may have several values in one instance."""

    name: str
    kind: str
    many: bool
    is_fact: bool

    @property
    def shown(self) -> bool:
        return self.is_fact or self.name in SHOWN

    @property
    def variable(self) -> str:
        """Its name in CEL, which has no `/`."""
        return self.name.replace("/", "_")


def attribute(path: str) -> Subject:
    """The attribute of a keyword (`Modality`), or of a path through sequences (`ContrastBolusAgentSequence/CodeValue`).

    Raises ConfigError where PS3.6 has no such keyword, or what stands before a `/` is no sequence.
    """
    *sequences, keyword = path.split("/")
    for word in (*sequences, keyword):
        if word not in keyword_dict:
            near = did_you_mean(word, every_attribute())
            raise ConfigError([f"expected a DICOM keyword or fact after attribute{near}"])
    if any(dictionary_VR(word) != "SQ" for word in sequences):
        raise ConfigError(["expected a sequence before each / after attribute"])
    many = bool(sequences) or dictionary_VM(keyword) != "1"
    return Subject(path, _KINDS.get(dictionary_VR(keyword), OTHER), many, is_fact=False)


def fact(name: str) -> Subject:
    """Raises ConfigError where there is no such fact."""
    if name not in FACTS:
        raise ConfigError([f"expected a fact ({', '.join(FACTS)}) after fact{did_you_mean(name, FACTS)}"])
    return Subject(name, FACTS[name], many=False, is_fact=True)


@cache
def every_attribute() -> Mapping[str, Subject]:
    """All keywords of PS3.6 that can stand in an expression, sorted."""
    return MappingProxyType({keyword: attribute(keyword) for keyword in sorted(filter(None, keyword_dict))})


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`, did you mean '...'?`, or nothing where nothing known resembles `word`."""
    folded = {one.lower(): one for one in known}
    near = get_close_matches(word.lower(), folded, n=1)
    return f", did you mean {folded[near[0]]!r}?" if near else ""


def missing(value: object) -> bool:
    """Absent, or empty as in type 2 attributes."""
    return value is None or value in ("", [], ())


def told(value: object) -> str:
    """A value as a person reads it, cut to 64 characters: `true`, `2.5`, `ORIGINAL, PRIMARY, AXIAL`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(told, value))[:64]
    return "missing" if missing(value) else str(value)[:64]
