"""The folder of a model, and what keeps an embedded Triton from loading it, as far as that can be seen without one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_NAME = re.compile(r'^name\s*:\s*"([^"]*)"', re.MULTILINE)
_BACKEND = re.compile(r'^(?:backend|platform)\s*:\s*"([^"]*)"', re.MULTILINE)
_HERE = {"python", "ensemble"}
"""What the embedded Triton has; one of your own, by [triton] url, may have others."""


def unloadable(repositories: Iterable[Path]) -> Mapping[str, Sequence[str]]:
    """Every model in `repositories`, and why it will not be loaded; nothing where it looks right."""
    found: dict[str, list[Path]] = {}
    for folder in (path for repository in repositories for path in repository.glob("*/")):
        found.setdefault(folder.name, []).append(folder)
    return {
        name: _problems(folders[0]) if len(folders) == 1 else [f"expected in one of the model folders: it is in {len(folders)}"]
        for name, folders in found.items()
    }


def _problems(folder: Path) -> list[str]:
    file = folder / "config.pbtxt"
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    versions = [path for path in folder.glob("*/") if path.name.isdigit()]
    runs = set(_BACKEND.findall(text)) - {""} or {"python" if any((path / "model.py").is_file() for path in versions) else ""}
    found = []
    if not set(_NAME.findall(text)) <= {"", folder.name}:
        found.append(f"{file}: expected the name of its folder")
    if not versions:
        found.append(f"{folder}: expected a folder of its version, such as 1, with model.py in it")
    elif not runs <= _HERE:
        found.append(f'{file}: expected backend "python", the only one of the embedded Triton: model.py can load any other model')
    return found
