"""UIDs: which ones are valid (PS3.5 9.1), and ours, derived from names (PS3.5 B.2: 2.25.<UUID as integer>).

Derived, not drawn: the same input and the same model give the same UIDs, so a retried job makes the same objects and a
PACS that already holds them says so.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from uuid import UUID, uuid4, uuid5

NAMESPACE = UUID("b3f0d7c2-5a41-4c8e-9f5b-0c6f2a7d1e94")
IMPLEMENTATION_CLASS_UID = f"2.25.{uuid5(NAMESPACE, 'implementation').int}"
IMPLEMENTATION_VERSION_NAME = "CLINAIGW_01"

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


def is_uid(value: str) -> bool:
    """PS3.5 9.1: components without leading zeros, dots between them, at most 64 characters."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def derived_uid(*names: object) -> str:
    """At most 44 characters; the same names give the same UID for ever."""
    return f"2.25.{uuid5(NAMESPACE, json.dumps([str(name) for name in names])).int}"


def secret_uid() -> str:
    """Drawn, for what nobody else may guess; at most 44 characters."""
    return f"2.25.{uuid4().int}"


def digest(*parts: object) -> str:
    """SHA-256 (hex) over JSON of `parts`: no two different lists of parts share a text."""
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def job_key(
    *,
    pipeline: str,
    version: str,
    model: str,
    model_version: str,
    weights: str,
    inputs: Iterable[tuple[str, str]],
    companions: Mapping[str, Iterable[tuple[str, str]]] = MappingProxyType({}),
) -> str:
    """Identity of a job's results: what ran, in which version, over which bytes.

    `weights` is the digest of the model's files, `inputs` are (SOP Instance UID, sha256) pairs in any order, `companions` are
    such by role.
    """
    return digest(pipeline, version, model, model_version, weights, sorted(inputs), *by_role(companions))


def by_role(companions: Mapping[str, Iterable[tuple[str, str]]]) -> list[object]:
    """A part of a key, where there are any: which bytes have which role is a part of what they are for a pipeline."""
    return [{role: sorted(inputs) for role, inputs in companions.items()}] if companions else []
