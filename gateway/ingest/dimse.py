"""Storage SCP (PS3.4 B) and Verification SCP (PS3.4 A) over pynetdicom.

Bytes are handed on as they came. Every answer has its own status (PS3.4 B.2.3): what `receive` raises says which.
"""

import contextlib
import socket
from typing import Any, cast
from uuid import uuid4

import structlog
from pydicom import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from gateway import log
from gateway.errors import GatewayError, NotSupported, NotUnderstood, Refused
from gateway.ingest import Door
from gateway.instance import Incoming, Origin

# Those that the volume reader can decode; deflate is left out, a few bytes of it can fill the memory.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless,
    JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K,
)  # fmt: skip
MAXIMUM_PDU = 131_072

_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"

_logger = structlog.get_logger()


class Listener:
    """Open on `host`:`port` (0: any free one) until closed. `calling_ae_titles` empty: everybody may send."""

    def __init__(
        self,
        door: Door,
        *,
        ae_title: str,
        host: str,
        port: int,
        calling_ae_titles: tuple[str, ...],
        maximum_associations: int,
        maximum_instance_bytes: int,
        idle_seconds: float,
    ) -> None:
        self._door, self._maximum_instance_bytes = door, maximum_instance_bytes
        self._origins: dict[object, Origin] = {}
        ae = AE(ae_title)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), list(TRANSFER_SYNTAXES))
        ae.add_supported_context(Verification)
        ae.require_called_aet = True
        ae.require_calling_aet = list(calling_ae_titles)
        ae.maximum_associations = maximum_associations
        ae.maximum_pdu_size = MAXIMUM_PDU
        ae.network_timeout = ae.dimse_timeout = idle_seconds
        ae.acse_timeout = min(idle_seconds, 30)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self.on_connected),
            (evt.EVT_ACCEPTED, self.on_accepted),
            (evt.EVT_REJECTED, self.on_rejected),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_STORE, self.on_c_store),
            (evt.EVT_RELEASED, self.on_ended),
            (evt.EVT_ABORTED, self.on_ended),
            (evt.EVT_CONN_CLOSE, self.on_ended),
        ]
        server = ae.start_server((host, port), block=False, evt_handlers=handlers)
        assert server is not None
        self._server = server
        self.port: int = cast("socket.socket", server.socket).getsockname()[1]

    @property
    def associations(self) -> set[str]:
        """Those that are open now."""
        return {origin.association for origin in list(self._origins.values())}

    def close(self) -> None:
        self._server.shutdown()

    def on_connected(self, event: evt.Event) -> None:
        """Small answers must not wait for more to send: Nagle's delay is 40 ms an instance."""
        with contextlib.suppress(OSError, AttributeError):  # it may be gone already
            cast("Any", event.assoc.dul.socket).socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def on_accepted(self, event: evt.Event) -> None:
        self._origins[event.assoc] = _origin(event)

    def on_rejected(self, event: evt.Event) -> None:
        origin = _origin(event)
        _logger.warning("association.rejected", calling_ae_title=origin.calling_ae_title, address=origin.address)
        self._door.association_rejected(origin, "expected a known calling and our called AE title, and a free association")

    def on_ended(self, event: evt.Event) -> None:
        origin = self._origins.pop(event.assoc, None)
        if origin is not None:
            self._door.association_ended(origin.association)

    def on_c_store(self, event: evt.Event) -> Dataset:
        try:
            self._receive(event)
        except GatewayError as error:
            _logger.warning("instance.refused", status=f"0x{error.dimse_status:04X}", reason=str(error))
            return _status(error.dimse_status, str(error))
        except Exception as error:  # noqa: BLE001 - boundary: the sender is told, the association goes on (habit 25)
            _logger.error("instance.failed", error=type(error).__name__, stack=log.stack_without_values(error))
            return _status(GatewayError.dimse_status, "unexpected error, nothing was kept")
        return _status(0x0000)

    def _receive(self, event: evt.Event) -> None:
        try:
            incoming = self._incoming(event)
        except Refused as error:
            self._door.instance_refused(self._origins[event.assoc], error)
            raise
        self._door.receive(incoming)

    def _incoming(self, event: evt.Event) -> Incoming:
        request, context = cast("C_STORE", event.request), event.context
        if request.AffectedSOPClassUID != context.abstract_syntax:
            raise NotSupported("expected the SOP class of the presentation context")
        if request.DataSet is None:
            raise NotUnderstood("expected a data set")
        data = request.DataSet.getbuffer()
        if len(data) > self._maximum_instance_bytes:
            raise NotUnderstood(f"expected at most {self._maximum_instance_bytes} bytes")
        return Incoming(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(context.transfer_syntax),
            data,
            self._origins[event.assoc],
        )


def _origin(event: evt.Event) -> Origin:
    requestor, acceptor = event.assoc.requestor, event.assoc.acceptor
    called = requestor.primitive.called_ae_title if requestor.primitive else acceptor.ae_title
    return Origin("dimse", str(uuid4()), str(requestor.ae_title).strip(), str(called).strip(), str(requestor.address))


def _status(code: int, comment: str = "") -> Dataset:
    """A C-STORE-RSP status with its Error Comment (0000,0902), at most 64 characters."""
    status = Dataset()
    status.Status = code
    if comment:
        status.ErrorComment = comment[:64]
    return status
