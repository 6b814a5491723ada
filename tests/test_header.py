"""Headers: any character set becomes ISO_IR 192, dirty values become legal ones, and nothing becomes mojibake."""

import os
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from gateway.dicom.header import clean
from gateway.errors import Unsuitable
from tests.synthetic import ct_series, part10

CHARSETS = Path(os.environ.get("GATEWAY_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "charsets"
# What pydicom says, on foreign bytes that a test wants.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
    pytest.mark.filterwarnings("ignore:The value length:UserWarning"),
    pytest.mark.filterwarnings("ignore:Failed to decode byte string:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unknown encoding:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PN component length:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of PN components:UserWarning"),
    pytest.mark.filterwarnings("ignore:Found unknown escape sequence:UserWarning"),
]
NAMES = {
    "chrArab": "قباني^لنزار",
    "chrFren": "Buc^Jérôme",
    "chrGerm": "Äneas^Rüdiger",
    "chrGreek": "Διονυσιος",
    "chrH31": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw": "שרון^דבורה",
    "chrI2": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrJapMulti": "やまだ^たろう",
    "chrJapMultiExplicitIR6": "やまだ^たろう",
    "chrKoreanMulti": "김희중",
    "chrRuss": "Люкceмбypг",
    "chrX1": "Wang^XiaoDong=王^小東",
    "chrX2": "Wang^XiaoDong=王^小东",
}


def header(charset: str | list[str] | None, **raw: bytes) -> Dataset:
    """A header as it is read, with these bytes as values."""
    instance = ct_series(1)[0]
    instance.SpecificCharacterSet = charset
    read = dcmread(BytesIO(part10(instance)), stop_before_pixels=True)
    for keyword, value in raw.items():
        tag, vr = Tag(keyword), instance[keyword].VR
        read[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return read


def read_charset(name: str) -> Dataset:
    path = CHARSETS / f"{name}.dcm"
    if not path.is_file():
        pytest.skip(f"GATEWAY_TEST_DATA has no charsets/{name}.dcm")
    return dcmread(path)


@pytest.mark.parametrize("name", NAMES)
def test_name_in_any_character_set_is_kept(name):
    cleaned, _ = clean(read_charset(name))

    read = dcmread(BytesIO(part10(cleaned)))

    assert str(read.PatientName) == NAMES[name]
    assert read.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("syntax", "method"),
    [(JPEGBaseline8Bit, "ISO_10918_1"), (JPEGExtended12Bit, "ISO_10918_1"), (JPEGLSNearLossless, "ISO_14495_1")],
)
def test_images_of_a_lossy_transfer_syntax_are_lossy_whatever_they_leave_out(syntax, method):
    lossy = header("ISO_IR 192")
    lossy.file_meta.TransferSyntaxUID = syntax

    cleaned, notes = clean(lossy)

    assert (cleaned.LossyImageCompression, cleaned.LossyImageCompressionMethod) == ("01", method)
    assert notes == ("LossyImageCompression: absent, added as the transfer syntax has it",)


def test_what_images_say_of_their_compression_is_kept():
    kept = header("ISO_IR 192")
    kept.file_meta.TransferSyntaxUID, kept.LossyImageCompression = JPEGLSNearLossless, "00"  # it may have lost nothing

    cleaned, notes = clean(kept)

    assert (cleaned.LossyImageCompression, notes) == ("00", ())


@pytest.mark.parametrize("name", ["chrFrenMulti", "chrSQEncoding", "chrSQEncoding1"])
def test_text_of_items_is_kept(name):
    original, (cleaned, _) = read_charset(name), clean(read_charset(name))
    original.decode()

    def texts(data_set):
        return [str(element.value) for element in data_set.iterall() if element.VR in {"LO", "PN", "SH"} and element.value]

    assert texts(dcmread(BytesIO(part10(cleaned)))) == texts(original)


def test_header_itself_stays_as_it_was():
    original = header("ISO_IR 100", PatientName="Müller^Jörg".encode("latin-1"))
    before = part10(original)

    clean(original)

    assert part10(original) == before


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Müller^Jörg".encode("latin-1")),
        ("", "Müller^Jörg".encode()),
        ("ISO_IR 6", "Müller^Jörg".encode("latin-1")),
        ("ISO_IR 999", "Müller^Jörg".encode("latin-1")),
        ("ISO_IR 192", "Müller^Jörg".encode("latin-1")),
        (None, b"Yamada^Tarou=\x1b$B;3ED\x1b(B"),
    ],
    ids=["none, latin", "none, utf-8", "ascii, latin", "unknown", "utf-8, latin", "none, escape"],
)
def test_name_that_cannot_be_read_for_certain_is_refused(charset, name):
    with pytest.raises(Unsuitable) as refusal:
        clean(header(charset, PatientName=name))

    assert refusal.value.code == "CHARSET"
    assert "ller" not in str(refusal.value)


def test_description_that_cannot_be_read_is_emptied():
    cleaned, notes = clean(header(None, StudyDescription="Läsion".encode("latin-1")))

    assert cleaned.StudyDescription == ""
    assert notes == ("StudyDescription: not in the declared character set, emptied",)


def test_ascii_under_an_unknown_character_set_is_read():
    cleaned, notes = clean(header("ISO_IR 999"))

    assert (str(cleaned.PatientName), notes) == ("CANARY^NAME", ())


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", b"U ", ""),
        ("PatientBirthDate", b"00000000", ""),
        ("PatientBirthDate", b"20230229", ""),
        ("PatientAge", b"ABC ", ""),
        ("StudyTime", b"25:61 ", ""),
        ("StudyTime", b"101112.1234 ", "101112.1234"),
        ("StudyDate", b"99991231", "99991231"),
        ("TimezoneOffsetFromUTC", b"CET ", ""),
        ("AccessionNumber", b"12345678901234567890", "1234567890123456"),
        ("StudyDescription", b"x" * 70, "x" * 64),
        ("PatientName", b"a^b^c^d^e^f=x=y=z ", "a^b^c^d^e=x=y"),
        ("PatientName", b"a" * 70, "a" * 64),
        ("StudyDescription", b"Thorax\\Abdomen", "Thorax"),
        ("PatientBirthDate", b"19500101\\19500102", ""),
        ("BodyPartExamined", b"Chest ", "CHEST"),
        ("BodyPartExamined", b"CHEST_ABDOMEN 1 ", "CHEST_ABDOMEN 1"),
        ("BodyPartExamined", b"Chest w/o contrast", ""),
        ("PatientSex", b"f ", "F"),
    ],
)
def test_value_is_legal_afterwards(keyword, value, expected):
    cleaned, notes = clean(header("ISO_IR 192", **{keyword: value}))

    assert str(cleaned[keyword].value) == expected
    assert [note.split(":")[0] for note in notes] == ([] if value.decode().strip() == expected else [keyword])
    assert not any(value.decode().strip() in note for note in notes)


def test_element_that_cannot_be_converted_is_removed():
    cleaned, notes = clean(header("ISO_IR 192", InstanceNumber=b"12.5"))

    assert "InstanceNumber" not in cleaned
    assert notes == ("InstanceNumber: not readable, removed",)


def test_absent_type_2_attributes_are_added_empty():
    instance = ct_series(1)[0]
    del instance.StudyID
    del instance.PatientBirthDate

    cleaned, notes = clean(instance)

    assert (cleaned.StudyID, cleaned.PatientBirthDate) == ("", "")
    assert notes == ("PatientBirthDate: absent, added empty", "StudyID: absent, added empty")


def test_private_elements_are_left_out_at_every_depth():
    instance = ct_series(1)[0]
    instance.private_block(0x0009, "VENDOR", create=True).add_new(1, "LO", "secret")
    item = Dataset()
    item.ScheduledProcedureStepID = "1"
    item.private_block(0x0009, "VENDOR", create=True).add_new(1, "LO", "secret")
    instance.RequestAttributesSequence = [item]

    cleaned, _ = clean(instance)

    assert not any(element.tag.is_private for element in cleaned.iterall())
    assert any(element.tag.is_private for element in instance.iterall())
