"""ONNX Runtime for browsers: what the page of `export --to web` computes with.

It comes from npm once, by npm's own client, and is kept in the cache folder as the archive that it
came in, checked against its SHA-512 whenever it is used.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

from samtune.checkpoints import cache_folder
from samtune.errors import ExportError
from samtune.fetching import Progress, SourceError, integrity, npm_pack
from samtune.files import atomic_write
from samtune.sources import ONNXRUNTIME_WEB

# One CPU thread, or several where the server isolates the page; neither WebGL nor WebGPU.
_MEMBERS = {
    "ort.js": "package/dist/ort.wasm.bundle.min.mjs",  # .js: some servers do not know .mjs
    "ort.wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}
RUNTIME_FILES = tuple(_MEMBERS)


def runtime_archive(report: Progress) -> Path:
    """The npm package's archive, brought if it is not here yet.

    Args:
        report: told how that goes.

    Raises:
        ExportError: it cannot be brought; says which file to put where.
        OutputError: it cannot be kept.
    """
    package = ONNXRUNTIME_WEB
    path = cache_folder() / "npm" / f"{package.spec.replace('@', '-')}.tgz"
    if path.is_file() and integrity(path) == package.integrity:
        return path
    try:
        with tempfile.TemporaryDirectory() as inbox, atomic_write(path) as temporary:
            shutil.move(npm_pack(package, Path(inbox), report), temporary)
    except SourceError as error:
        raise ExportError(
            f"the page needs {package.spec}, and {error}. Where npm works, `npm pack "
            f"{package.spec}` writes {path.name}: put that at {path}."
        ) from error
    return path


def write_runtime(archive: Path, folder: Path) -> None:
    """Write RUNTIME_FILES into a folder."""
    with tarfile.open(archive) as package:
        for name, member in _MEMBERS.items():
            content = package.extractfile(member)
            assert content is not None, "the archive's SHA-512 was checked"
            (folder / name).write_bytes(content.read())
