"""Headers made fit to be copied into results (PS3.5 6.1 and 6.2, PS3.3 C.12.1.1.2): one character set, legal values.

What a sender got wrong is emptied, cut or dropped, on a copy, and told by keyword; the value itself is never told.
"""

import re
from collections.abc import Hashable, Iterable, Sequence
from copy import copy, deepcopy
from datetime import date
from typing import overload

from pydicom import DataElement, Dataset
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VM, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless
from pydicom.valuerep import PersonName

from gateway.errors import Unsuitable

UNICODE = "ISO_IR 192"
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# Transfer syntaxes that lose something, and the Lossy Image Compression Method of each (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1", JPEGLSNearLossless: "ISO_14495_1"}
# A result with one of these emptied could land on the wrong patient; elsewhere an unreadable text is only a loss.
IDENTITY = frozenset({"PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"})
LONGEST = {"LO": 64, "SH": 16}

CHECKED = frozenset({"AS", "CS", "DA", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT"})
_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
}
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")


Elements = dict[BaseTag, DataElement | RawDataElement]
Known = dict[Hashable, tuple[DataElement | None, str]]
"""What became of an element with these bytes: most are the same in all instances of a series."""


class Copies(Sequence[Dataset]):
    """Each of `headers` as a copy, made when somebody looks at it: whatever becomes of that, `headers` stay as they are."""

    def __init__(self, headers: Sequence[Dataset]) -> None:
        self._headers = headers
        self._made: dict[int, Dataset] = {}

    def __len__(self) -> int:
        return len(self._headers)

    @overload
    def __getitem__(self, index: int) -> Dataset: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Dataset]: ...
    def __getitem__(self, index: int | slice) -> Dataset | Sequence[Dataset]:
        if isinstance(index, slice):
            return [self[n] for n in range(len(self))[index]]
        place = range(len(self))[index]
        if place not in self._made:
            self._made[place] = deepcopy(self._headers[place])
        return self._made[place]


def clean_series(headers: Iterable[Dataset]) -> tuple[tuple[Dataset, ...], tuple[str, ...]]:
    """`clean` for the headers of one series, each element of the same bytes once; and every note once."""
    known: Known = {}
    cleaned = [clean(header, known) for header in headers]
    notes = dict.fromkeys(note for _, found in cleaned for note in found)
    return tuple(header for header, _ in cleaned), tuple(notes)


def clean(header: Dataset, known: Known | None = None) -> tuple[Dataset, tuple[str, ...]]:
    """A copy of `header` in ISO_IR 192 without private elements, with legal values, and a note for each coercion.

    Notes are a keyword and what was done. Raises Unsuitable("CHARSET") where the text of an identifying attribute cannot be
    decoded without doubt. `header` itself stays as it was. Copies made with the same `known` share elements.
    """
    cleaned, notes = _clean(_standard_elements(header), plain=True, known={} if known is None else known)
    cleaned.SpecificCharacterSet = UNICODE
    for keyword in TYPE_2:
        if keyword not in cleaned:
            setattr(cleaned, keyword, "")
            notes.append(f"{keyword}: absent, added empty")
    method = _LOSSY.get(getattr(header, "file_meta", {}).get("TransferSyntaxUID", ""))
    if method and not cleaned.get("LossyImageCompression"):
        cleaned.LossyImageCompression, cleaned.LossyImageCompressionMethod = "01", method
        notes.append("LossyImageCompression: absent, added as the transfer syntax has it")
    return cleaned, tuple(notes)


def _standard_elements(header: Dataset) -> Dataset:
    """A copy without private elements. Raw elements and values are shared: nothing here changes them in place."""
    standard: Elements = {}
    for tag, element in header.items():
        if tag.is_private:
            continue
        if isinstance(element, RawDataElement):
            standard[tag] = header.get_item(tag) if element.value is None else element  # a large one was left in its file
            continue
        standard[tag] = own = copy(element)
        if own.VR == "SQ":
            own.value = [_standard_elements(item) for item in own.value or ()]
    return _of(standard, header)


def _of(elements: Elements, header: Dataset) -> Dataset:
    """A data set of these elements, encoded as `header`."""
    made = Dataset(elements)  # setting one after the other looks at each tag five times
    implicit_vr, little_endian = header.original_encoding
    made.set_original_encoding(implicit_vr, little_endian, header.original_character_set)
    if hasattr(header, "file_meta"):
        made.file_meta = header.file_meta
    return made


def _clean(data_set: Dataset, *, plain: bool, known: Known) -> tuple[Dataset, list[str]]:
    """The data set and its items made legal, and the notes. `plain`: no character set is declared further up."""
    declared = data_set.get("SpecificCharacterSet")
    plain = _is_plain(declared) if declared is not None else plain
    legal, notes = Elements(), []
    for tag, raw in list(data_set.items()):
        key = (tag, raw.VR, raw.value, str(declared), plain) if isinstance(raw, RawDataElement) else None
        if key is None or key not in known:
            element, note = _clean_element(data_set, tag, plain=plain, known=known)
            if key is not None and (element is None or element.VR != "SQ"):
                known[key] = element, note
        else:
            element, note = known[key]
        if element is not None:
            legal[tag] = element
        if note:
            notes.append(note)
    return _of(legal, data_set), notes


def _clean_element(data_set: Dataset, tag: BaseTag, *, plain: bool, known: Known) -> tuple[DataElement | None, str]:
    """The element made legal (None: to be removed), and the note of what was done."""
    try:
        element = data_set[tag]
    except Exception:  # noqa: BLE001 - foreign bytes: whatever a conversion raises, the element is unusable
        keyword = keyword_for_tag(tag)
        _refuse_identity(keyword)
        return None, f"{keyword}: not readable, removed"
    if tag.is_private or element.keyword == "SpecificCharacterSet":
        return None, ""
    if element.VR == "SQ":
        cleaned = [_clean(item, plain=plain, known=known) for item in element.value]
        element.value = [item for item, _ in cleaned]
        return element, "; ".join(note for _, notes in cleaned for note in notes)
    if element.VR in CHECKED and (done := _decode(element, plain=plain) or _coerce(element)):
        return element, f"{element.keyword}: {done}"
    return element, ""


def _is_plain(declared: str | Sequence[str] | None) -> bool:
    """Whether only ASCII can be believed: nothing is declared, or a term that PS3.3 does not define."""
    terms = [declared or ""] if isinstance(declared, str | None) else [str(term) for term in declared]
    return all(term in {"", "ISO_IR 6", "ISO 2022 IR 6"} for term in terms) or any(term not in python_encoding for term in terms)


def _decode(element: DataElement, *, plain: bool) -> str:
    """Empty a text that the declared character set does not explain; what was done, or nothing.

    U+FFFD is what pydicom puts for bytes it cannot decode, ESC is left of a code extension it does not know.
    """
    values = element.value if element.VM > 1 else [element.value]
    text = "".join(str(value) for value in values if value)
    if "\ufffd" not in text and "\x1b" not in text and (text.isascii() or not plain):
        return ""
    _refuse_identity(element.keyword)
    element.value = ""
    return "not in the declared character set, emptied"


def _refuse_identity(keyword: str) -> None:
    if keyword in IDENTITY:
        raise Unsuitable("CHARSET", f"expected {keyword} in the declared Specific Character Set")


def _coerce(element: DataElement) -> str:
    """Make one element legal, in place; what was done, or nothing."""
    if element.VM > 1:
        return _coerce_several(element)
    if element.VR == "PN" and element.value:
        return _coerce_name(element)
    if element.VR in LONGEST and len(element.value or "") > LONGEST[element.VR]:
        element.value = element.value[: LONGEST[element.VR]].rstrip()
        return f"cut to {LONGEST[element.VR]} characters"
    if not element.value or is_legal(element):
        return ""
    if element.VR == "CS":
        element.value = element.value.upper()
        if is_legal(element):
            return "made capitals"
    element.value = ""
    return "not a legal value, emptied"


def _coerce_several(element: DataElement) -> str:
    """What is legal with one value only; what says whose result it is stays as the sender wrote it."""
    if not element.keyword or dictionary_VM(element.tag) != "1" or element.keyword in IDENTITY:
        return ""
    is_text = element.VR in LONGEST
    element.value = element.value[0] if is_text else ""
    return _coerce(element) or f"several values where one is legal, {'cut to the first' if is_text else 'emptied'}"


def _coerce_name(element: DataElement) -> str:
    """PS3.5 6.2.1: three component groups of five components and 64 characters."""
    name = str(element.value)
    legal = "=".join("^".join(group.split("^")[:5])[:64] for group in name.split("=")[:3])
    element.value = PersonName(legal)
    if legal == name:
        return ""
    return "cut to three groups of five components and 64 characters"


def is_legal(element: DataElement) -> bool:
    """Whether what is not empty obeys its VR (AS, CS, DA, TM) or its defined terms."""
    return all(_is_legal(element, str(value)) for value in (element.value if element.VM > 1 else [element.value]))


def _is_legal(element: DataElement, value: str) -> bool:
    if element.keyword == "PatientSex":
        return value in {"M", "F", "O"}
    if element.VR == "DA":
        return _is_date(value)
    form = _OFFSET if element.keyword == "TimezoneOffsetFromUTC" else _FORMS.get(element.VR)
    return form is None or form.fullmatch(value) is not None


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return len(value) == 8 and value.isdigit()
