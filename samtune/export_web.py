"""Export to the web: one page that answers clicks with plain SAM and an adapter, side by side.

    index.html, page.css, page.js, worker.js, resize.js    samtune/web/, as it is
    ort.js, ort.wasm, NOTICE.txt                           ONNX Runtime for browsers, its licence
    encoder.onnx, plain.onnx, adapter.onnx                 the models
    models.json                                            what the page has to know of them
    parity.json                                            how they compare with torch; last

Any server of static files will do; nothing is built, and nothing comes from another host.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path

from samtune.adapter import Adapter
from samtune.export import PARITY, provenance, refuse_others
from samtune.files import appearing_whole
from samtune.onnx_files import (
    check_exportable,
    quantize_decoder,
    quantize_encoder,
    write_decoder,
    write_encoder,
)
from samtune.parity import Parity, Question, compare, require_onnxruntime
from samtune.sam import Sam
from samtune.web_runtime import RUNTIME_FILES, write_runtime

INDEX = "index.html"
PAGE_FILES = (INDEX, "page.css", "page.js", "worker.js", "resize.js", "NOTICE.txt")
ENCODER, PLAIN, ADAPTER = MODEL_FILES = ("encoder.onnx", "plain.onnx", "adapter.onnx")
MODELS = "models.json"
SITE_FILES = (*PAGE_FILES, *RUNTIME_FILES, *MODEL_FILES, MODELS, PARITY)
_OURS = 'content="samtune export --to web"'  # in each page that samtune has written


def check_place(folder: Path) -> None:
    """Make sure that no other page would be overwritten.

    Raises:
        OutputError: there is one.
    """
    refuse_others(folder / INDEX, _OURS, "another page")


def export_web(
    sam: Sam,
    adapter: Adapter,
    name: str,
    folder: Path,
    questions: Sequence[Question],
    runtime: Path,
    *,
    quantize: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Parity]:
    """Write the page with its models, if these answer as torch does.

    Args:
        sam: the frozen model, on the CPU.
        adapter: what to plug onto it.
        name: what the page calls the adapter.
        folder: where the files go; it is made if need be.
        questions: what to compare with torch on.
        runtime: what `web_runtime.runtime_archive` brought.
        quantize: int8 in the encoder and the PLM, as in export.py.
        on_progress: called with what is being done, and how much of it of how much.

    Returns:
        How the files compare with torch: plain SAM and the adapter.

    Raises:
        ExportError: they do not answer as torch does (nothing is written then), ONNX Runtime is
            missing, or the encoder is too large for one file.
        OutputError: the folder cannot be written, or has another page.
    """
    require_onnxruntime()
    told = on_progress or (lambda phase, done, total: None)
    check_exportable(sam, adapter, folder)
    check_place(folder)
    with appearing_whole(folder, SITE_FILES) as site:
        told("exporting", 0, 3)
        write_encoder(sam, site / ENCODER)
        told("exporting", 1, 3)
        write_decoder(sam, None, site / PLAIN)
        told("exporting", 2, 3)
        write_decoder(sam, adapter, site / ADAPTER)
        told("exporting", 3, 3)
        if quantize:
            quantize_encoder(site / ENCODER)
            told("quantizing", 1, 2)
            quantize_decoder(site / ADAPTER)
            told("quantizing", 2, 2)
        parities = {}
        for key, file, plugged in (("plain", PLAIN, None), ("adapter", ADAPTER, adapter)):
            parities[key] = compare(
                sam,
                plugged,
                site / ENCODER,
                site / file,
                questions,
                partial(told, f"comparing {key} with torch"),
            )
            parities[key].check(quantize)
        _write_page(site, runtime, name, sam.image_size)
        described = {key: asdict(parity) for key, parity in parities.items()}
        described |= provenance(sam, adapter, quantize)
        (site / PARITY).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return list(parities.values())


def _write_page(site: Path, runtime: Path, name: str, image_size: int) -> None:
    """Put the page and its runtime beside the models."""
    source = resources.files("samtune") / "web"
    for file in PAGE_FILES:
        (site / file).write_bytes((source / file).read_bytes())
    write_runtime(runtime, site)
    sizes = {file: (site / file).stat().st_size for file in ("ort.wasm", *MODEL_FILES)}
    models = {"name": name, "input_size": image_size, "files": sizes}
    (site / MODELS).write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
