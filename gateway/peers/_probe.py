"""What a PACS is asked whether it takes it: a presentation context for each SOP class and transfer syntax (PS3.8 7.1.1.13)."""

from collections.abc import Collection

from pydicom import uid
from pydicom.uid import UID

from gateway.dicom.pdu import Context
from gateway.outputs.kinds import KINDS, line
from gateway.peers import Capability
from gateway.peers._association import COMMITMENT_REPORTS, QUERY, VERIFICATION, WORKLIST
from gateway.peers._get import GET
from gateway.peers._move import MOVE

_SERVICES: dict[Context, str] = {
    VERIFICATION: "C-ECHO",
    QUERY: "C-FIND, Study Root",
    GET: "C-GET, Study Root",
    MOVE: "C-MOVE, Study Root",
    WORKLIST: "C-FIND, Modality Worklist",
    COMMITMENT_REPORTS: "storage commitment",
}
_OURS = (*KINDS, uid.KeyObjectSelectionDocumentStorage)
_OTHERS = (
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.EncapsulatedPDFStorage, uid.EnhancedSRStorage, uid.EnhancedCTImageStorage, uid.EnhancedMRImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForPresentation, uid.BreastTomosynthesisImageStorage, uid.UltrasoundImageStorage,
    uid.XRayAngiographicImageStorage, uid.NuclearMedicineImageStorage,
)  # fmt: skip
_SYNTAXES = {
    uid.ImplicitVRLittleEndian: "Implicit VR", uid.ExplicitVRLittleEndian: "Explicit VR",
    uid.DeflatedExplicitVRLittleEndian: "deflated", uid.RLELossless: "RLE", uid.JPEGBaseline8Bit: "JPEG baseline",
    uid.JPEGLosslessSV1: "JPEG lossless", uid.JPEGLSLossless: "JPEG-LS lossless", uid.JPEG2000Lossless: "JPEG 2000 lossless",
    uid.JPEG2000: "JPEG 2000", uid.HTJ2KLossless: "HTJ2K lossless",
}  # fmt: skip
CONTEXTS: tuple[Context, ...] = (
    *_SERVICES,
    *((str(sop_class), str(syntax)) for sop_class in (*_OURS, *_OTHERS) for syntax in _SYNTAXES),
)


def capabilities(accepted: Collection[Context]) -> list[Capability]:
    """The services, then the SOP classes that we send, then usual ones; each with the transfer syntaxes that are taken."""
    found = [Capability(words, context in accepted) for context, words in _SERVICES.items()]
    for sop_class in (*_OURS, *_OTHERS):
        taken = [words for syntax, words in _SYNTAXES.items() if (str(sop_class), str(syntax)) in accepted]
        found.append(Capability(UID(sop_class).name, bool(taken), ", ".join(taken) or _instead(sop_class, accepted)))
    return found


def _instead(sop_class: str, accepted: Collection[Context]) -> str:
    """What helps where it is not taken."""
    taken = {one for one, _ in accepted}
    kinds = list(dict.fromkeys(kind for other, kind in KINDS.items() if other in taken))
    if sop_class not in KINDS or not kinds:
        return ""
    pictures = "; [delivery] pictures = true makes pictures" if "pictures" in kinds else ""
    return f"its table leaves them out with {line(kinds)}{pictures}"
