"""The modules that every result shares: General Series, General Equipment, SOP Common (PS3.3 C.7.3.1, C.7.5.1, C.12.1).

highdicom draws UIDs, takes the clock and leaves attributes of the source behind; `arguments` and `finish` stand before and
after it, so that the same encoding gives the same bytes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Any

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from gateway.dicom.enhanced import frame_number
from gateway.dicom.part10 import file_meta
from gateway.errors import BadOutput
from gateway.outputs import NOT_FOR_DIAGNOSIS, PRIVATE_SCHEME, Algorithm, Encoding, Equipment, Output

# Viewers open the series of the lowest number first, and that has to stay the scanner's.
FIRST_SERIES_NUMBER = 9000
# Of the study module: a modality's references to instances of retired classes, often with half of their attributes; and what
# no object of ours may have.
DROPPED = ("ReferencedStudySequence", "ReferencedPatientSequence", "RequestingService")
COPIED = ("PatientName", "IssuerOfPatientID", "TimezoneOffsetFromUTC")
COPIED_BY_IMAGES = ("BodyPartExamined", "Laterality")


def make(
    build: Callable[..., Dataset], *, encoding: Encoding, output: Output, images: Sequence[Dataset], **arguments: Any
) -> Dataset:
    """The instance that a class of highdicom makes of `images` (source headers, in order), finished.

    Raises BadOutput where highdicom refuses; its text may hold a value and is kept as the cause only.
    """
    try:
        made = build(_palatable(images), **_arguments(encoding, output), **arguments)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise BadOutput(f"expected a {type(output).__name__} that highdicom accepts ({type(error).__name__})") from error
    return _finish(made, encoding)


def bare(
    images: Sequence[Dataset], *, sop_class_uid: str, modality: str, transfer_syntax_uid: str = ExplicitVRLittleEndian,
    **arguments: Any,
) -> Dataset:  # fmt: skip
    """What highdicom gives every object, for `make`: where it has no class of its own for one."""
    image = images[0]
    made = hd.SOPClass(
        study_instance_uid=image.StudyInstanceUID, sop_class_uid=sop_class_uid, modality=modality,
        transfer_syntax_uid=transfer_syntax_uid, specific_character_set=image.get("SpecificCharacterSet"), **arguments,
    )  # fmt: skip
    made.copy_patient_and_study_information(image)
    made.ContributingEquipmentSequence = []
    if image.get("Manufacturer"):
        made.ContributingEquipmentSequence.append(hd.ContributingEquipment.for_image_acquisition(image))
    return made


def series_description(what: str) -> str:
    """At most 64 characters (LO), the warning first because viewers cut the end."""
    return f"{NOT_FOR_DIAGNOSIS} - {what}"[:64].rstrip()


def local_time(encoding: Encoding) -> datetime:
    """The start of inference in the time zone of the source; where that is not told, in the zone the caller gave."""
    offset = encoding.source[0].get("TimezoneOffsetFromUTC")
    if not offset:
        return encoding.started_at
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return encoding.started_at.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))


def reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """An item that refers to an instance (PS3.3 10.8)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def referred(image: Dataset) -> Dataset:
    """An item that refers to an image, or to a frame of one."""
    item = reference(image.SOPClassUID, image.SOPInstanceUID)
    if (frame := frame_number(image)) is not None:
        item.ReferencedFrameNumber = frame
    return item


def creator(algorithm: Algorithm) -> str:
    """Content Creator's Name is a person name, and the creator is a program."""
    parts = (algorithm.manufacturer, algorithm.name)
    return "^".join(part.translate(dict.fromkeys(map(ord, "^=\\"), " "))[:31] for part in parts)


def copy_lossy(made: Dataset, encoding: Encoding) -> None:
    """PS3.3 C.7.6.1.1.5: lossy once is lossy for ever, whichever source instance it was."""
    for instance in (*encoding.source, *encoding.companions):
        if instance.get("LossyImageCompression") == "01":
            for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
                if keyword in instance:
                    made[keyword] = deepcopy(instance[keyword])
            return


def observer(uid: str, *, name: str, manufacturer: str, serial_number: str) -> hd.sr.ObserverContext:
    """Who says what a report or a note says: a device (PS3.16 TID 1004)."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid, name=name, manufacturer_name=manufacturer, model_name=name, serial_number=serial_number
    )
    return hd.sr.ObserverContext(codes.DCM.Device, device)


def algorithm_equipment(encoding: Encoding) -> Dataset:
    """IHE AIR 6.5.3.1: each algorithm is Processing Equipment with a Device UID of its own."""
    algorithm = encoding.algorithm
    item = _contribution(
        Equipment(algorithm.manufacturer, algorithm.name, algorithm.version, algorithm.weights),
        codes.DCM.ProcessingEquipment,
        f"Algorithm, model {algorithm.model} {algorithm.model_version}. {NOT_FOR_DIAGNOSIS}.",
    )
    item.DeviceUID = algorithm.device_uid
    return item


def _arguments(encoding: Encoding, output: Output) -> dict[str, Any]:
    started, equipment = local_time(encoding), encoding.equipment
    return {
        "series_instance_uid": encoding.uid(output, "series"),
        "series_number": FIRST_SERIES_NUMBER + encoding.ordinal(output),
        "sop_instance_uid": encoding.uid(output, "instance"),
        "instance_number": 1,
        "manufacturer": equipment.manufacturer,
        "manufacturer_model_name": equipment.model_name,
        "software_versions": [equipment.version],
        "device_serial_number": equipment.serial_number,
        **{f"{ie}_date": started.date() for ie in ("series", "content")},
        **{f"{ie}_time": started.time() for ie in ("series", "content")},
    }


def _palatable(images: Sequence[Dataset]) -> list[Dataset]:
    """`images` with a first one that highdicom can take, a shallow copy: it reads patient and study there.

    It prints a name without a caret in a Python warning, and warnings end in logs.
    """
    first = Dataset()
    first.update(images[0])
    first["PatientName"] = DataElement("PatientName", "PN", "")  # an element of its own: setattr would change the source's
    return [first, *images[1:]]


def _finish(made: Dataset, encoding: Encoding) -> Dataset:
    """A plain Dataset of ours: highdicom's classes hold tables and copies that nobody needs after this."""
    finished = Dataset()
    finished.update(made)
    finished.file_meta = file_meta(made.SOPClassUID, made.SOPInstanceUID, made.file_meta.TransferSyntaxUID)
    source = encoding.source[0]
    for keyword in (*COPIED, *(COPIED_BY_IMAGES if "Rows" in made else ())):
        if source.get(keyword):
            finished[keyword] = deepcopy(source[keyword])
    for keyword in DROPPED:
        finished.pop(keyword, None)
    if schemes := _private_schemes(made):
        finished.CodingSchemeIdentificationSequence = schemes
    finished.InstanceCreationDate, finished.InstanceCreationTime = finished.SeriesDate, finished.SeriesTime
    acquisition = [item for item in made.ContributingEquipmentSequence if _purpose(item) == codes.DCM.AcquisitionEquipment.value]
    gateway = _contribution(encoding.equipment, codes.DCM.SynthesizingEquipment, "Gateway that ran the algorithm")
    finished.ContributingEquipmentSequence = [*acquisition, algorithm_equipment(encoding), gateway]
    return finished


def _private_schemes(made: Dataset) -> list[Dataset]:
    """Of the codes in it, which nobody else explains (PS3.3 C.12.1.1.3; private designators begin with 99, PS3.16 8.2)."""
    used = {str(element.value) for element in made.iterall() if element.keyword == "CodingSchemeDesignator"}
    return [
        CodingSchemeIdentificationItem(scheme, name="Clinical AI gateway" if scheme == PRIVATE_SCHEME else None)
        for scheme in sorted(used)
        if scheme.startswith("99")
    ]


def _purpose(item: Dataset) -> str:
    return str(item.PurposeOfReferenceCodeSequence[0].CodeValue)


def _contribution(equipment: Equipment, purpose: hd.sr.CodedConcept, description: str) -> Dataset:
    return hd.ContributingEquipment(
        equipment.manufacturer,
        purpose,
        manufacturer_model_name=equipment.model_name,
        software_versions=[equipment.version],
        device_serial_number=equipment.serial_number,
        contribution_description=description,
    )
