"""`samtune cache`: the image embeddings on disk."""

from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samtune.cli_inputs import open_sam
from samtune.cli_ray import RayOption, StdoutOfOneThread
from samtune.console import (
    DEFAULT_CHECKPOINT,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    Terminal,
    print_json,
    show_error,
)
from samtune.errors import OutputError, PromptError, SamtuneError
from samtune.ray_blocks import Record, connect, go_to, run_blocks, shared_device
from samtune.shards import Shard
from samtune.words import count

if TYPE_CHECKING:
    from samtune.sam import Sam

cache = typer.Typer(no_args_is_help=True, help="Cached image embeddings: fill, info, clear.")
_IMAGES_A_BLOCK = 32  # half a minute of a core


@dataclass(frozen=True)
class Encoder:
    """What encodes: a model, for a worker that begins in a folder."""

    folder: Path
    checkpoint: str
    device: str


@cache.command()
def fill(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images to encode.")
    ],
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Every N-th image only, starting with the I-th.")
    ] = "1/1",
    ray: RayOption = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Encode images beforehand, so that fit, segment and evaluate find them encoded.

    What is in the cache already stays; the same command goes on after an interruption.
    """
    from samtune.checkpoints import resolve
    from samtune.pairs import find_images

    try:
        part = Shard.parse(shard)
    except PromptError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error
    dealt = list(part.deal(find_images(images), lambda _: None))
    _check_room(len(dealt))  # the shards fill one cache
    paths = [path for path, is_own in dealt if is_own]
    failed = done = 0
    with Terminal(quiet) as terminal:
        encoder = Encoder(Path.cwd(), checkpoint, device)
        if ray is None:
            records = _fill_here(open_sam(terminal, checkpoint, device), paths)
        else:
            resolve(checkpoint, terminal.show_bytes)  # fetched once, for the workers here
            records = _fill_on_ray(ray, encoder, paths)
        for record in records:
            done += record["images"]
            failed += len(record["errors"])
            for why in record["errors"]:
                show_error(SamtuneError(why))
            terminal.show("encoding", done, len(paths))
    if not quiet:
        typer.echo(f"{count(done - failed, 'image')} in the cache", err=True)
    if failed:
        raise typer.Exit(1)


def _check_room(images: int) -> None:
    """Make sure that the first embeddings are not removed for the last.

    Raises:
        OutputError: the cache keeps fewer.
    """
    from samtune.embeddings import EmbeddingCache

    shortage = EmbeddingCache().shortage(images)
    if shortage is not None:
        raise OutputError(f"{shortage}: set it to more, here and wherever they are used.")


def _fill_here(sam: "Sam", paths: list[Path]) -> Iterator[Record]:
    """Encode one after another; reads the next meanwhile."""
    from samtune.embeddings import EmbeddingCache
    from samtune.images import read_image
    from samtune.pipeline import overlap

    kept = EmbeddingCache()
    stages = overlap(
        paths, read_image, lambda _, image: kept.encode(image, sam), lambda _, encoded: None
    )
    with closing(stages) as encoded:
        for _, result in encoded:
            error = result.exception()
            if error is not None and not isinstance(error, SamtuneError):
                raise error
            yield {"images": 1, "errors": [] if error is None else [str(error)]}


def _fill_on_ray(address: str, encoder: Encoder, paths: list[Path]) -> Iterator[Record]:
    """Encode on the machines of a cluster, which share the cache folder."""
    connect(address)
    encoder = replace(encoder, device=shared_device(encoder.device))
    gpu = encoder.device == "cuda"
    starts = range(0, len(paths), _IMAGES_A_BLOCK)
    blocks = [paths[start : start + _IMAGES_A_BLOCK] for start in starts]
    with redirect_stdout(StdoutOfOneThread()):
        for index, record in run_blocks(fill_block, encoder, blocks, None, gpu=gpu):
            lost = [f"{path}: every worker that had it was killed." for path in blocks[index]]
            yield {"images": len(lost), "errors": lost} if record is None else record


def fill_block(encoder: Encoder, paths: list[Path]) -> Record:
    """Encode some images, in a worker."""
    records = list(_fill_here(_opened(encoder), paths))
    errors = [error for record in records for error in record["errors"]]
    return {"images": len(paths), "errors": errors, "failed": bool(errors)}


@lru_cache(maxsize=1)
def _opened(encoder: Encoder) -> "Sam":
    """A worker's model: loaded for its first block, kept for the others."""
    go_to(encoder.folder)
    with Terminal(quiet=True) as terminal:
        return open_sam(terminal, encoder.checkpoint, encoder.device)


@cache.command("info")
def cache_info(as_json: JsonOption = False) -> None:
    """Say how many image embeddings are cached, and where."""
    from samtune.embeddings import EmbeddingCache

    found = EmbeddingCache().info()
    if as_json:
        print_json({**asdict(found), "folder": str(found.folder)})
        return
    typer.echo(
        f"{count(found.count, 'image embedding')}, {found.bytes / 1e9:.2f} GB of at most "
        f"{found.limit_bytes / 1e9:g} GB ($SAMTUNE_CACHE_GB), in {found.folder}"
    )


@cache.command("clear")
def clear_cache() -> None:
    """Remove all cached image embeddings; they are computed again when needed."""
    from samtune.embeddings import EmbeddingCache

    typer.echo(f"removed {count(EmbeddingCache().clear(), 'image embedding')}")
