"""What holds for every object: whose it is, who made it, and that each value is legal (IHE AIR 6.5.3.1, PS3.5 6.2)."""

from collections.abc import Iterator, Mapping, Sequence

from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import KeyObjectSelectionDocumentStorage

from gateway.conformance.reading import algorithm, code, text, unmet
from gateway.dicom.header import CHECKED, UNICODE, is_legal
from gateway.dicom.uids import is_uid
from gateway.outputs import NOT_FOR_DIAGNOSIS, Encoding, Output
from gateway.outputs.modules import FIRST_SERIES_NUMBER

PATIENT = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")
STUDY = (
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
TYPE_1 = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "SeriesDate", "SeriesTime")
_CHECKED = frozenset({"UI", *CHECKED})
_CONTOUR_DATA = Tag("ContourData")  # encoded already, and read by its own check (structures.py)


def told(sources: Sequence[Dataset]) -> dict[str, set[str]]:
    """What the source instances say of whose they are."""
    return {keyword: {text(source, keyword) for source in sources} for keyword in PATIENT}


def general(made: Dataset, output: Output, encoding: Encoding, whose: Mapping[str, set[str]]) -> Iterator[str]:
    """`whose` is `told` of all sources, asked once for all objects: a derived series has as many of these as of those."""
    first, meta = encoding.source[0], made.file_meta
    by_a_person = made.SOPClassUID == KeyObjectSelectionDocumentStorage
    yield from unmet(
        *((values == {text(made, k)}, f"{k} of every source instance") for k, values in whose.items()),
        *((text(made, k) == text(first, k), f"{k} of the source") for k in STUDY),
        *((text(made, k) != "", f"a value of {k}") for k in TYPE_1),
        (made.SOPInstanceUID == encoding.uid(output, "instance"), "SOP Instance UID derived from the job key"),
        (made.SeriesInstanceUID == encoding.uid(output, "series"), "Series Instance UID derived from the job key"),
        (meta.MediaStorageSOPClassUID == made.SOPClassUID, "file meta information of this SOP class"),
        (meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID, "file meta information of this instance"),
        (int(made.SeriesNumber) >= FIRST_SERIES_NUMBER, f"Series Number {FIRST_SERIES_NUMBER} or more"),
        (NOT_FOR_DIAGNOSIS in text(made, "SeriesDescription"), f"Series Description to say: {NOT_FOR_DIAGNOSIS}"),
        (text(made, "SpecificCharacterSet") == UNICODE, f"Specific Character Set {UNICODE}"),
        (
            by_a_person or list(_processing_equipment(made)) == [algorithm(encoding)],
            "the algorithm alone as Processing Equipment",
        ),
        (not by_a_person or not list(_processing_equipment(made)), "no algorithm in what a person says"),
    )


def _processing_equipment(made: Dataset) -> Iterator[list[str]]:
    for item in made.get("ContributingEquipmentSequence", []):
        if code(item, "PurposeOfReferenceCodeSequence") == codes.DCM.ProcessingEquipment.value:
            yield [text(item, keyword) for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceUID")]


def elements(data_set: Dataset, seen: set[int]) -> Iterator[str]:
    """`seen` are the sequences that were looked at, by their id: frames share them."""
    for tag in [element.tag for element in data_set.values() if element.tag != _CONTOUR_DATA]:
        element = data_set[tag]
        if tag.is_private:
            yield "expected no private element"
        elif element.VR == "SQ":
            if id(element) not in seen:
                seen.add(id(element))
                for item in element.value:
                    yield from elements(item, seen)
        elif element.VR in _CHECKED and element.value and not _is_valid(element):
            yield f"expected a legal value of {element.keyword}"


def _is_valid(element: DataElement) -> bool:
    values = element.value if element.VM > 1 else [element.value]
    return all(is_uid(str(value)) for value in values) if element.VR == "UI" else is_legal(element)
