"""Image embeddings on disk: encode an image once, whatever follows.

A file is named after what it was computed from: the decoded pixels, the image encoder's
weights, and the preprocessing. The same name with other content, another checkpoint or another
way of preprocessing can therefore never hit, and any command may share the folder with any
other. Features are kept in half precision, 2 MiB for SAM's 256×64×64, and rounded to it even
when they come fresh from the encoder: a result does not depend on whether the cache was warm.
A file holds them cell by cell, (h, w, 256), as the decoder wants them: nobody has to transpose a
million numbers in each training step.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from samtune.checkpoints import cache_folder
from samtune.errors import OutputError
from samtune.files import atomic_write
from samtune.input_frame import Embedding, input_size
from samtune.sam import Sam

PREPROCESSING = "1"  # raise it whenever Sam.preprocess changes what the encoder sees
DEFAULT_LIMIT_GB = 20.0  # about 10,000 images
_BYTES = 2_097_280  # of a file with SAM's 256×64×64, its header included
_COUNT_AFTER = 0.01  # of the limit saved: then all files are counted, as other processes save too


@dataclass(frozen=True)
class CacheInfo:
    """What the embedding cache holds: its folder, number of embeddings, bytes, and limit."""

    folder: Path
    count: int
    bytes: int
    limit_bytes: int


class EmbeddingCache:
    """Embeddings by content, the least recently used removed beyond a size limit.

    Args:
        folder: where the files are; by default `embeddings` in samtune's cache folder.
        limit_gb: how much to keep, in 10⁹ bytes; by default $SAMTUNE_CACHE_GB or 20.
        mirror: whether `encode` gives images' mirror images as well, for a predictor to ask both.
    """

    def __init__(
        self, folder: Path | None = None, limit_gb: float | None = None, *, mirror: bool = False
    ) -> None:
        self.mirror = mirror
        self.folder = cache_folder() / "embeddings" if folder is None else folder
        limit_gb = _limit_from_environment() if limit_gb is None else limit_gb
        self.limit_bytes = int(limit_gb * 1e9)
        self._bytes: int | None = None  # counted on the first save, then kept up to date
        self._uncounted = 0  # bytes saved since

    def key(self, image: NDArray[np.uint8], sam: Sam) -> str:
        """The name of an image's embedding: SHA-256 of pixels, encoder and preprocessing."""
        source = f"{PREPROCESSING} {sam.encoder_fingerprint} {sam.image_size} {image.shape}\n"
        digest = hashlib.sha256(source.encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def load(self, key: str, sam: Sam) -> Embedding | None:
        """Read an embedding; None where there is none, or only a damaged file."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                features = file.get_tensor("cells").permute(2, 0, 1)
                height, width = map(int, file.metadata()["original_size"].split(","))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a folder shared read-only is still of use
            os.utime(path)  # it was used: see _remove_oldest
        return Embedding(features, (height, width), input_size((height, width), sam.image_size))

    def save(self, key: str, embedding: Embedding) -> None:
        """Write an embedding, in half precision.

        Raises:
            OutputError: the cache folder cannot be written, or the disk is full.
        """
        height, width = embedding.original_size
        tensors = {"cells": embedding.features.half().permute(1, 2, 0).contiguous()}
        with atomic_write(self._path(key)) as temporary:
            size = {"original_size": f"{height},{width}"}
            # Not save_file, which hides a full disk behind an error of its own.
            temporary.write_bytes(safetensors.torch.save(tensors, size))
            written = temporary.stat().st_size
        self._uncounted += written
        if self._bytes is None or self._uncounted > _COUNT_AFTER * self.limit_bytes:
            self._bytes, self._uncounted = self.info().bytes, 0
        else:
            self._bytes += written
        if self._bytes > self.limit_bytes:
            self._remove_oldest(keep=self._path(key))

    def encode(self, image: NDArray[np.uint8], sam: Sam) -> tuple[str, Embedding]:
        """Take an image's embedding from the cache, or run the encoder and keep what it gives.

        Args:
            image: (H, W, 3) uint8 RGB.
            sam: the frozen model.

        Returns:
            The key, and the embedding with float16 features.
        """
        key, embedding = self._encode(image, sam)
        if not self.mirror:
            return key, embedding
        return key, replace(embedding, mirror=self._encode(image[:, ::-1], sam)[1])

    def _encode(self, image: NDArray[np.uint8], sam: Sam) -> tuple[str, Embedding]:
        key = self.key(image, sam)
        embedding = self.load(key, sam)
        if embedding is None:
            fresh = sam.encode_image(image)
            embedding = Embedding(fresh.features.half(), fresh.original_size, fresh.input_size)
            self.save(key, embedding)
        return key, embedding

    def info(self) -> CacheInfo:
        """Count what is there."""
        sizes = [size for _, size, _ in self._files()]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.limit_bytes)

    def shortage(self, images: int) -> str | None:
        """In words, that embeddings of so many images do not fit; None where they do."""
        needed = images * _BYTES
        if needed <= self.limit_bytes:
            return None
        return (
            f"{images:,} images take {needed / 1e9:.2g} GB encoded, and the cache keeps "
            f"{self.limit_bytes / 1e9:g} ($SAMTUNE_CACHE_GB)"
        )

    def clear(self) -> int:
        """Remove all embeddings; returns how many there were."""
        files = self._files()
        for path, _, _ in files:
            path.unlink(missing_ok=True)
        self._bytes = None
        return len(files)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of last use of each embedding."""
        found = []
        for path in self.folder.glob("??/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another samtune removed it meanwhile
                continue
            found.append((path, status.st_size, status.st_mtime))
        return found

    def _remove_oldest(self, keep: Path) -> None:
        """Go down to nine tenths of the limit, so that not every save has to look again."""
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if total <= 0.9 * self.limit_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
        self._bytes = total


def _limit_from_environment() -> float:
    text = os.environ.get("SAMTUNE_CACHE_GB", "")
    try:
        limit = float(text) if text else DEFAULT_LIMIT_GB
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise OutputError(
            f"SAMTUNE_CACHE_GB is {text!r}: give the cache's size limit in GB, for example 20."
        )
    return limit
