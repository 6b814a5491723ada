"""A target's session as its parent sees it: progress, an input that fails, and whether it holds on to memory or descriptors."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

_ROOT = Path(__file__).parents[2]
_TELL_SECONDS = 10.0
_MB = 1024**2
_MEMORY_MB = 2048
_GROWTH_MB = 64
"""What a process may grow after the first quarter of a session: libFuzzer keeps its corpus in memory."""


@dataclass
class Session:
    """`states` are what the engine told, in order; `defect` is empty where there was none."""

    name: str
    states: list[dict[str, int]] = field(default_factory=list)
    corpus: int = 0
    defect: str = ""
    input: Path | None = None

    @property
    def runs(self) -> int:
        return self.states[-1]["runs"] if self.states else 0

    def line(self, seconds: float) -> str:
        last = self.states[-1]
        return (
            f"{self.name:10} {seconds:5.0f} s  {self.runs:9,} runs  {self.runs / max(seconds, 1):7,.0f}/s  corpus {self.corpus:5}"
            f"  peak {last['peak'] / _MB:5.0f} MB  now {last['rss'] / _MB:5.0f} MB  {last['descriptors']} descriptors"
        )

    def leak(self) -> str:
        """What grew after the first quarter, when everything has been used once; empty where nothing did."""
        first, last = self.states[len(self.states) // 4], self.states[-1]
        if (growth := (last["rss"] - first["rss"]) / _MB) > _GROWTH_MB:
            return f"memory grew by {growth:.0f} MB"
        if (more := last["descriptors"] - first["descriptors"]) > 0:
            return f"{more} more descriptors are open"
        return ""


def run(
    name: str, module: str, *, seconds: int, seed: int, keep: Path, say: Callable[[str], None], patience: int = 20
) -> Session:  # fmt: skip
    """Fuzz `module` for so long, or until it fails; the input that fails goes into `keep`. `patience`: seconds for one input."""
    session, tail, began, told = Session(name), deque[str](maxlen=60), time.monotonic(), 0.0
    with TemporaryDirectory() as folder:
        options = [
            f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={patience}", f"-rss_limit_mb={_MEMORY_MB}",
            f"-artifact_prefix={folder}/", "-print_final_stats=0", "-verbosity=0",
        ]  # fmt: skip
        command = [sys.executable, "-m", "tests.fuzz.engine", module, folder, *options]
        with subprocess.Popen(
            command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as engine:
            assert engine.stdout is not None
            for text in engine.stdout:
                if not text.startswith('{"runs"'):
                    if not text.startswith(("INFO:", "WARNING:")):
                        tail.append(text.rstrip())
                    continue
                session.states.append(json.loads(text))
                session.corpus = len(os.listdir(Path(folder) / "corpus"))
                if (now := time.monotonic() - began) - told >= _TELL_SECONDS:
                    told = now
                    say(session.line(now))
        if engine.returncode:
            session.defect = "\n".join(tail) or f"the engine ended with {engine.returncode}"
            session.input = _kept(Path(folder), keep, name)
        elif not session.states:
            session.defect = "the engine ended without a run"
        else:
            session.defect = session.leak()
            say(session.line(time.monotonic() - began))
    return session


def _kept(folder: Path, keep: Path, name: str) -> Path | None:
    """The input that failed (libFuzzer's crash-, timeout- or oom- file), in a place that stays."""
    for found in sorted(folder.glob("*-*")):
        data = found.read_bytes()
        keep.mkdir(parents=True, exist_ok=True)
        kept = keep / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        kept.write_bytes(data)
        return kept
    return None
