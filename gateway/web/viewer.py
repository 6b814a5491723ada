"""The viewer beside the console: OHIF (MIT), as its makers build it, made to run under /viewer/ and to ask nobody but us.

It comes from npm, is checked against the digest written here, and lies in a folder of its own: it is no part of our package.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlencode

from gateway.errors import ConfigError

PACKAGE = "@ohif/app@3.13.2"
_DIGEST = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="  # SHA-512
ROOT = "/viewer"
NOT_INSTALLED = "the viewer is not installed: run `gateway viewer install`"
_FINISHED = "installed"
_LEFT_OUT = ("ort", "dicom-microscopy-viewer")  # models in the browser, slides: 156 of 204 MB
_WORKERS = "init-service-worker.js"  # loads a script from elsewhere, to keep pages of an older build alive
_SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "gateway",
    "configuration": {
        "friendlyName": "Clinical AI Gateway", "name": "gateway",
        "qidoRoot": "/dicom-web", "wadoRoot": "/dicom-web", "wadoUriRoot": "/dicom-web",
        "qidoSupportsIncludeField": True, "imageRendering": "wadors", "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True, "supportsFuzzyMatching": False, "supportsWildcard": True, "supportsReject": False,
        "dicomUploadEnabled": False, "omitQuotationForMultipartRequest": True, "bulkDataURI": {"enabled": True},
        "acceptHeader": ["multipart/related; type=application/octet-stream; transfer-syntax=*"],
    },
}  # fmt: skip
_SETTINGS = {
    "routerBasename": ROOT, "extensions": [], "modes": [], "customizationService": {}, "showStudyList": True,
    "showWarningMessageForCrossOrigin": False, "showCPUFallbackMessage": True, "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True, "investigationalUseDialog": {"option": "never"}, "useSharedArrayBuffer": "FALSE",
    "defaultDataSourceName": "gateway", "dataSources": [_SOURCE],
}  # fmt: skip


def default_folder() -> Path:
    """Beside the environment that runs the gateway: `.venv` has its `.venv-viewer`."""
    own = Path(sys.prefix)
    return own.with_name(f"{own.name}-viewer")


def is_installed(folder: Path) -> bool:
    return (folder / _FINISHED).is_file()


def install(folder: Path, progress: Callable[[str], None]) -> None:
    """Fetch it (50 MB) with what npm is configured to see. Raises ConfigError where that fails or other bytes come."""
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(["the viewer comes from npm, which is not installed (Debian: npm)"])
    with tempfile.TemporaryDirectory() as temporary:
        progress(f"fetching {PACKAGE}")
        fetched = subprocess.run(
            [npm, "pack", PACKAGE, "--pack-destination", temporary, "--silent"], capture_output=True, text=True, check=False
        )
        archives = list(Path(temporary).glob("*.tgz"))
        if fetched.returncode or len(archives) != 1:
            raise ConfigError([f"npm could not fetch {PACKAGE}: expected a registry that has it"])
        if base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode() != _DIGEST:
            raise ConfigError([f"{PACKAGE}: expected the bytes that this gateway was made with; others came, and are not used"])
        progress(f"unpacking into {folder}")
        half = folder.with_name(f"{folder.name}-half")
        shutil.rmtree(half, ignore_errors=True)
        with tarfile.open(archives[0]) as archive:
            archive.extractall(half, members=_wanted(archive), filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    half.replace(folder)
    _settle_in(folder)
    progress(f"the viewer is in {folder}")


def address(study_instance_uid: str) -> str:
    """Where the viewer shows a study with the results beside its images."""
    return f"{ROOT}/segmentation?{urlencode({'StudyInstanceUIDs': study_instance_uid})}"


def _wanted(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive.getmembers():
        path = PurePosixPath(member.name)
        if not member.isfile() or path.parts[:2] != ("package", "dist") or path.suffix == ".map" or path.parts[2] in _LEFT_OUT:
            continue
        member.name = str(PurePosixPath(*path.parts[2:]))
        yield member


def _settle_in(folder: Path) -> None:
    """It is built for the root of a site, and stands under ours."""
    index = folder / "index.html"
    index.write_text(index.read_text().replace('="/', f'="{ROOT}/'))
    for script in folder.glob("*.js"):
        script.write_text(script.read_text().replace('__webpack_require__.p = "/"', f'__webpack_require__.p = "{ROOT}/"'))
    for style in folder.glob("*.css"):
        style.write_text(style.read_text().replace("url(/", f"url({ROOT}/"))
    (folder / "app-config.js").write_text(f"window.config = {json.dumps(_SETTINGS, indent=2)};\n")
    (folder / _WORKERS).write_text("// Nothing is kept in the browser.\n")
    (folder / "sw.js").unlink(missing_ok=True)
    (folder / _FINISHED).write_text(f"{PACKAGE}\n")
