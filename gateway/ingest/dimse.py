"""SCP of Storage (PS3.4 B), Verification (A), Storage Commitment (J) and procedure steps (F.7): the door for scanners and PACS.

The accept loop only accepts. Handshake, negotiation and everything after are a thread's of their own, so whoever is slow,
silent or hostile holds nobody up but itself, and not for long.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

import structlog
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
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from gateway import log
from gateway.dicom.commitment import COMMITMENT
from gateway.dicom.instance import Origin
from gateway.dicom.modality import PROCEDURE_STEP
from gateway.doors.door import Door
from gateway.doors.policy import Policy, Rejection
from gateway.doors.visits import DISPLACED, Limits, Visit
from gateway.ingest._association import Association
from gateway.ingest._wire import Wire
from gateway.machine import tls

# Those that the volume reader can decode (JPEG Extended of 8 bits only); deflate is left out, a few bytes of it fill the memory.
TRANSFER_SYNTAXES: tuple[str, ...] = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless,
    JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K,
)  # fmt: skip
STORAGE = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
SUPPORTED: Mapping[str, Sequence[str]] = dict.fromkeys(STORAGE, TRANSFER_SYNTAXES) | dict.fromkeys(
    (str(Verification), COMMITMENT, PROCEDURE_STEP), (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
)
_GRACE_SECONDS, _FULL_SECONDS = 3, 1

_logger = structlog.get_logger()


class Listener:
    """Takes associations from a listening socket until it is closed. `context` is asked for each connection's; None: no TLS."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        door: Door,
        policy: Policy,
        limits: Limits,
        maximum_instance_bytes: int,
        idle_seconds: float,
        pdu_seconds: float,
        association_seconds: float,
        context: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._listening, self._door, self._policy, self._limits, self._context = listening, door, policy, limits, context
        self._maximum_instance_bytes = maximum_instance_bytes
        self._idle, self._pdu, self._association = idle_seconds, pdu_seconds, association_seconds
        self._open: dict[str, tuple[threading.Thread, socket.socket]] = {}
        self.associations: dict[str, Association] = {}
        """Those that are established, by their UUID."""
        self.port: int = listening.getsockname()[1]
        threading.Thread(target=self._accept, name="dimse", daemon=True).start()

    def close(self) -> None:
        """Reject new associations, give those that are open a moment to end, then cut them off."""
        self._limits.draining = "the gateway is stopping"
        end = time.monotonic() + _GRACE_SECONDS
        for thread, _ in self._begun():
            thread.join(max(0, end - time.monotonic()))
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for thread, connection in self._begun():
            tls.cut_off(connection)
            thread.join(1)

    def _begun(self) -> list[tuple[threading.Thread, socket.socket]]:
        """Not who has come just now, whose thread is about to be started: nobody can wait for that, and it will be rejected."""
        return [(thread, connection) for thread, connection in list(self._open.values()) if thread.is_alive()]

    def _accept(self) -> None:
        while True:
            try:
                connection, (address, *_) = self._listening.accept()
            except OSError as error:
                if self._listening.fileno() < 0 or error.errno == 22:  # closed, or shut down
                    return
                _logger.error("association.not_accepted", reason=os.strerror(error.errno).lower() if error.errno else "")
                time.sleep(_FULL_SECONDS)  # out of file descriptors: those that end will free some
                continue
            origin = Origin("dimse", str(uuid4()), address=address)
            visit = self._limits.enter(address, partial(self._displace, origin))
            if isinstance(visit, Rejection):
                connection.close()
                self._door.turn_away(origin, visit.words)
                continue
            self._take(connection, origin, visit)

    def _displace(self, origin: Origin) -> None:
        """Called by whoever accepts another. One that is not open yet looks for itself (is_displaced)."""
        if (held := self._open.get(origin.association)) is not None:
            tls.cut_off(held[1])
        self._door.turn_away(origin, DISPLACED)

    def _take(self, connection: socket.socket, origin: Origin, visit: Visit) -> None:
        key = origin.association
        thread = threading.Thread(target=self._hold, args=(connection, origin, visit), name="association", daemon=True)
        self._open[key] = (thread, connection)
        try:
            thread.start()
        except RuntimeError:  # the system has no room for another; the listener must not end with it
            _logger.error("association.not_accepted", error="no more threads")
            del self._open[key]
            visit.leave()
            connection.close()

    def _hold(self, connection: socket.socket, origin: Origin, visit: Visit) -> None:
        key = origin.association
        try:
            with visit, connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if self._context is not None:
                    connection = tls.secure(connection, self._context())
                    self._open[key] = (threading.current_thread(), connection)  # the one that can be cut off from now on
                with connection:
                    if not visit.is_displaced:
                        self._run(connection, visit, origin)
        except OSError as error:
            if not visit.is_displaced:  # which was told
                self._door.turn_away(origin, tls.words(error) if self._context else "expected a connection that holds")
                _logger.warning("handshake.failed", address=origin.address, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - boundary: one association must not end the process
            _logger.error("association.failed", error=type(error).__name__, stack=log.stack_without_values(error))
        finally:
            del self._open[key]

    def _run(self, connection: socket.socket, visit: Visit, origin: Origin) -> None:
        names = None
        if isinstance(connection, ssl.SSLSocket):
            tls.handshake(connection, seconds=self._association)
            names = tls.names(connection.getpeercert())
        wire = Wire(connection, idle_seconds=self._association, pdu_seconds=self._association)
        association = Association(
            wire, self._door, visit, self._policy, SUPPORTED, STORAGE, self._maximum_instance_bytes, origin, names
        )
        try:
            association.run(self._established)
        finally:
            if self.associations.pop(origin.association, None):
                self._door.end(association.origin, broken=True)  # nothing is left of one that was released

    def _established(self, association: Association) -> None:
        self.associations[association.origin.association] = association
        association.wire.allow(idle_seconds=self._idle, pdu_seconds=self._pdu)
