"""Rejection note: a Key Object Selection that takes one result back (PS3.3 A.35.4, PS3.16 TID 2010, IHE IOCM).

Who holds the result and understands IOCM hides it from readers; who does not at least shows the note beside it.
"""

from dataclasses import dataclass

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from gateway.dicom.uids import derived_uid
from gateway.outputs import Encoding, Equipment, modules

REASONS: dict[str, tuple[Code, str]] = {
    "quality": (codes.DCM.RejectedForQualityReasons, "The result is wrong or of no use."),
    "safety": (codes.DCM.RejectedForPatientSafetyReasons, "The result may do harm."),
    "wrong-patient": (codes.DCM.RejectedForPatientSafetyReasons, "The images are of another patient."),
    "mwl": (codes.DCM.IncorrectModalityWorklistEntry, "The images were made under another worklist entry."),
    "retention": (codes.DCM.DataRetentionPolicyExpired, "The time for which it is kept is over."),
}
"""By the word that a person says; titles of CID 7010."""
# Behind the results of the same study: those count on from 9000.
_SERIES_NUMBER = 900


def key(sop_instance_uid: str) -> str:
    """Of the encoding of that result's note."""
    return f"rejection of {sop_instance_uid}"


def note_uid(sop_instance_uid: str) -> str:
    """The SOP Instance UID of the note on that result: one result has one note, however often it is taken back."""
    return derived_uid(key(sop_instance_uid), 0, Rejection.__name__, "instance")


@dataclass(frozen=True, eq=False)
class Rejection:
    """The note on the instance that is the encoding's one source; `reason` is a key of REASONS."""

    reason: str

    def encode(self, encoding: Encoding) -> Dataset:
        """One KO instance. No algorithm made it: it names the gateway alone as equipment and as observer."""
        (rejected,) = encoding.source
        title, description = REASONS[self.reason]
        content = hd.ko.KeyObjectSelection(
            title,
            [rejected],
            observer_device_context=_observer(encoding.equipment),
            description=f"Taken back: {description}",
        )
        made = modules.make(
            hd.ko.KeyObjectSelectionDocument,
            encoding=encoding,
            output=self,
            images=[rejected],
            content=content,
            series_description=modules.series_description("Rejection note"),
        )
        ours = made.ContributingEquipmentSequence[-1]
        ours.ContributionDescription = "Gateway at which a person took the result back"
        made.ContributingEquipmentSequence = [ours]
        made.SeriesNumber += _SERIES_NUMBER
        return made


def _observer(ours: Equipment) -> hd.sr.ObserverContext:
    uid = derived_uid("device", ours.manufacturer, ours.model_name, ours.version, ours.serial_number)
    return modules.observer(uid, name=ours.model_name, manufacturer=ours.manufacturer, serial_number=ours.serial_number)
