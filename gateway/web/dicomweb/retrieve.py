"""WADO-RS (PS3.18 10.4): instances as they are stored, their metadata, single frames and large values.

Nothing is transcoded: what is stored in another transfer syntax than the one that is asked for is answered 406.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydicom import DataElement, Dataset, dcmread
from pydicom.filereader import read_file_meta_info

from gateway.dicom import frames
from gateway.errors import Unsuitable
from gateway.views.holdings import Held, held
from gateway.web.accepted import MediaType, accepted
from gateway.web.site import Here
from gateway.web.who import Viewer

router = APIRouter()
_DICOM, _JSON = "application/dicom", "application/dicom+json"
_CHUNK = 256 * 1024
_INLINE_BYTES = 4096
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_FRAMES_AT_MOST = 1000
STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"


@router.get(STUDY)
@router.get(SERIES)
@router.get(INSTANCE)
def instances(request: Request, _person: Viewer, here: Here) -> Response:
    paths = [here.store.path(one.sha256) for one in named(request, here)]
    chosen = taken(request, [_DICOM], *{_syntax(path) for path in paths})
    if "instance" in request.path_params and not chosen.is_multipart and chosen.name == _DICOM:
        return StreamingResponse(_bytes(paths[0]), media_type=_DICOM)
    return multipart(((_DICOM, _bytes(path)) for path in paths), _DICOM)


@router.get(f"{STUDY}/metadata")
@router.get(f"{SERIES}/metadata")
@router.get(f"{INSTANCE}/metadata")
def metadata(request: Request, _person: Viewer, here: Here) -> Response:
    if not any(one.name in (_JSON, "application/json", "application/*", "*/*") for one in _accepts(request)):
        raise HTTPException(406, f"expected {_JSON} to be accepted")
    root = base(request)
    return JSONResponse([_json(one, here.store.path(one.sha256), root) for one in named(request, here)], media_type=_JSON)


@router.get(f"{INSTANCE}/frames/{{frame_numbers}}")
def some_frames(request: Request, frame_numbers: str, _person: Viewer, here: Here) -> Response:
    (one,) = named(request, here)
    wanted = numbers(frame_numbers)
    try:
        found = frames.frames(here.store.path(one.sha256), wanted)
        first = next(found)
    except Unsuitable as error:
        raise HTTPException(404, str(error)) from error
    chosen = taken(request, [first.media_type, frames.OCTETS], first.transfer_syntax_uid)
    kind = f"{first.media_type}; transfer-syntax={first.transfer_syntax_uid}"
    if not chosen.is_multipart and len(wanted) == 1:
        return Response(first.content, media_type=kind)
    parts = ((kind, [frame.content]) for frame in chain((first,), found))
    return multipart(parts, first.media_type)


@router.get(f"{INSTANCE}/bulkdata/{{tag}}")
def bulk_data(request: Request, tag: str, _person: Viewer, here: Here) -> Response:
    """A large value of the data set itself, as its metadata name it; bytes little endian."""
    (one,) = named(request, here)
    keyword = tag if len(tag) == 8 and all(character in "0123456789ABCDEF" for character in tag) else ""
    header = dcmread(here.store.path(one.sha256), stop_before_pixels=True) if keyword else Dataset()
    value = header[tag].value if keyword and tag in header else None
    if not isinstance(value, bytes):
        raise HTTPException(404)
    chosen = taken(request, [frames.OCTETS], "")
    return (
        multipart([(frames.OCTETS, [value])], frames.OCTETS) if chosen.is_multipart else Response(value, media_type=frames.OCTETS)
    )


def _json(one: Held, path: Path, root: str) -> dict[str, Any]:
    """A large value is named, not told; one within a sequence is left out."""
    header = dcmread(path, stop_before_pixels=True)
    uri = f"{root}/studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"
    large = {str(element.tag): element for element in header if _is_large(element)}
    for element in large.values():
        del header[element.tag]
    header.walk(_drop_large)
    told: dict[str, Any] = header.to_json_dict(suppress_invalid_tags=True)
    for element in large.values():
        tag = f"{element.tag:08X}"
        told[tag] = {"vr": element.VR, "BulkDataURI": f"{uri}/bulkdata/{tag}"}
    told["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8, whatever the file was
    told["00083002"] = {"vr": "UI", "Value": [_syntax(path)]}  # AvailableTransferSyntaxUID
    return dict(sorted(told.items()))


def _drop_large(dataset: Dataset, element: DataElement) -> None:
    if _is_large(element):
        del dataset[element.tag]


def _is_large(element: DataElement) -> bool:
    return element.VR in _BINARY and isinstance(element.value, bytes) and len(element.value) > _INLINE_BYTES


def named(request: Request, here: Here) -> Sequence[Held]:
    """The instances that the path names: those of a study, of a series, or one."""
    names = request.path_params
    found = held(here.db, names["study"], names.get("series", ""), names.get("instance", ""))
    if not found:
        raise HTTPException(404)
    return found


def base(request: Request) -> str:
    """Where the services begin, as who asks knows it."""
    return str(request.base_url).rstrip("/") + "/dicom-web"


def numbers(text: str, at_most: int = _FRAMES_AT_MOST) -> list[int]:
    """Of frames, as a path names them."""
    words = text.split(",")
    if len(words) > at_most or not all(word.isdecimal() and len(word) < 8 for word in words):
        raise HTTPException(400, f"expected at most {at_most} numbers of frames, separated by commas")
    return [int(word) for word in words]


def _accepts(request: Request) -> list[MediaType]:
    return accepted(request.headers.get("accept", ""), request.query_params.getlist("accept"))


def taken(request: Request, names: Sequence[str], *syntaxes: str) -> MediaType:
    """What is accepted of everything that is there: of some of it would be taken for the whole."""
    for one in _accepts(request):
        if any(all(one.takes(name, syntax) for syntax in syntaxes) for name in names):
            return one
    wanted = " and ".join(sorted(filter(None, syntaxes))) or "any"
    raise HTTPException(406, f"expected {' or '.join(names)} to be accepted, in transfer syntax {wanted} or *")


def _syntax(path: Path) -> str:
    return str(read_file_meta_info(path).TransferSyntaxUID)


def _bytes(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def multipart(parts: Iterable[tuple[str, Iterable[bytes]]], kind: str) -> Response:
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for media_type, content in parts:
            yield f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
            yield from content
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return StreamingResponse(body(), media_type=f'multipart/related; type="{kind}"; boundary={boundary}')
