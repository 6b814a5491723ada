"""Every error the gateway raises on purpose.

GatewayError
+- Refused                 answered at our door; nothing of the instance is kept
|  +- OutOfResources       0xA700  disk, database or queue full: the sender tries again
|  +- Mismatch             0xA900  data set and request name different SOP classes
|  +- NotUnderstood        0xC000  not a data set, truncated, nested too deep
|  +- InvalidUid           0x0117  SOP Instance UID malformed, or not the one of the request
|  +- NotSupported         0x0122  SOP class outside the negotiated context
|  +- NoSuchClass          0x0118  an action on a SOP class that has none (as the next four: PS3.7 10.1.4.1.10)
|  +- NoSuchInstance       0x0112  an action on another instance than the well-known one
|  +- NoSuchAction         0x0123  an action type that the SOP class does not have
|  +- NoSuchEvent          0x0113  an event type that the SOP class does not have (PS3.7 10.1.1.1.8)
|  +- InvalidArgument      0x0115  an action or event information that is not what PS3.4 J.3 says
|  +- InvalidAttribute     0x0106  an attribute of a procedure step that is not as in PS3.4 F.7 (as the next three: PS3.7 C)
|  +- MissingAttribute     0x0120  one that a procedure step must have
|  +- DuplicateInstance    0x0111  a procedure step under a UID that another one has
|  +- NotChangeable        0x0110  a procedure step that has ended (PS3.4 F.7.2.2.2, Error ID 0xA710)
|  +- ResourceLimitation   0x0213  an action or event that cannot be kept: disk full
+- JobError                what keeps a job from its end
|  +- Unsuitable           the series is not what the pipeline needs (final); `code` names the reason
|  +- Damaged              a stored instance is not the one that was received (final)
|  +- BadModelOutput       Triton answered something else than promised (final)
|  +- BadOutput            our own object is not conformant (final, never sent)
|  +- ModelUnavailable     Triton or the model did not answer (try again)
|  +- NoRoom               the store does not take the results now (try again)
|  +- NoPipeline           this process does not have it, another one may (try again)
|  +- Outdated             results of an earlier revision have come or gone since it began (try again)
+- DeliveryError           a peer did not take an output
|  +- Unreachable          no association, no answer, out of resources (try again)
|  |  +- Unanswered        everything was sent and the answer never came: the peer may hold it (ask, then send the same again)
|  +- Rejected             the peer's status says no (final); `status` is that number
+- CollectorError          the collector of audit messages did not take them (they wait, and are sent again)
+- NoticeError             a notice did not reach those it is for (it waits, and is sent again)
+- ConfigError             gateway.toml, rules.yaml or a plug-in file is wrong; `problems` lists all of it

Statuses: PS3.7 Annex C and PS3.4 B.2.3. Texts say what was expected, never a value found in a data set.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar


class GatewayError(Exception):
    """Base. `dimse_status` answers C-STORE and STOW-RS alike; `retryable` says whether the same act can succeed later."""

    dimse_status: ClassVar[int] = 0x0110
    retryable: ClassVar[bool] = False
    error_id: ClassVar[int] = 0
    """Error ID (0000,0903) of the answer, where the standard has one."""


class Refused(GatewayError):
    """An instance that we do not take."""


class OutOfResources(Refused):
    dimse_status = 0xA700
    retryable = True


class Mismatch(Refused):
    dimse_status = 0xA900


class NotUnderstood(Refused):
    dimse_status = 0xC000


class InvalidUid(Refused):
    dimse_status = 0x0117


class NotSupported(Refused):
    dimse_status = 0x0122


class NoSuchClass(Refused):
    dimse_status = 0x0118


class NoSuchInstance(Refused):
    dimse_status = 0x0112


class NoSuchAction(Refused):
    dimse_status = 0x0123


class NoSuchEvent(Refused):
    dimse_status = 0x0113


class InvalidArgument(Refused):
    dimse_status = 0x0115


class InvalidAttribute(Refused):
    dimse_status = 0x0106


class MissingAttribute(Refused):
    dimse_status = 0x0120


class DuplicateInstance(Refused):
    dimse_status = 0x0111


class NotChangeable(Refused):
    dimse_status = 0x0110
    error_id = 0xA710


class ResourceLimitation(Refused):
    dimse_status = 0x0213
    retryable = True


class JobError(GatewayError):
    """A job that cannot go on. `code` is the one word that lists and metrics show."""

    code: ClassVar[str] = "JOB"


class Unsuitable(JobError):
    """The series is not what the pipeline needs.

    `code` is GEOMETRY, INCOMPLETE, VOLUMES, IMAGE, DECODE, CHARSET, IDENTITY or COMPANION.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code  # type: ignore[misc]


class Damaged(JobError):
    code = "INTEGRITY"


class BadModelOutput(JobError):
    code = "MODEL_OUTPUT"


class BadOutput(JobError):
    code = "OUTPUT"


class ModelUnavailable(JobError):
    code = "MODEL"
    retryable = True


class ModelDied(ModelUnavailable):
    """Its process ended while it worked: what it was given may be why."""


class Crashed(JobError):
    code = "CRASH"


class NoRoom(JobError):
    code = "STORE"
    retryable = True


class NoPipeline(JobError):
    code = "PIPELINE"
    retryable = True


class Outdated(JobError):
    code = "REVISION"
    retryable = True


class DeliveryError(GatewayError):
    """A delivery attempt that did not end with the peer's success."""


class Unreachable(DeliveryError):
    """`after` is how long the peer asked us to wait."""

    retryable = True

    def __init__(self, reason: str, after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Unanswered(Unreachable):
    pass


class NotAdmitted(Unreachable):
    """The peer is there, and rejected the association."""


class Rejected(DeliveryError):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class CollectorError(GatewayError):
    retryable = True


class NoticeError(GatewayError):
    retryable = True


class ConfigError(GatewayError):
    """Everything that is wrong with a configuration, one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
