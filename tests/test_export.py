"""Exported files: driven by ONNX Runtime alone, whole or not there at all."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from command import files_in, photo
from PIL import Image
from tiny_models import IMAGE_SIZE, build_adapter

import samtune.parity
from samtune.errors import ExportError, OutputError
from samtune.export import _model_yaml, export_onnx
from samtune.parity import LEAST_IOU_INT8, Parity, Question, drawn_questions
from samtune.predictor import Predictor
from samtune.prompt_learning import PromptLearning
from samtune.prompts import Prompt

FILES = {"encoder.onnx", "decoder.onnx", "model.yaml", "parity.json"}


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


@pytest.fixture(scope="module")
def exported(tiny_sam, adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    export_onnx(tiny_sam, adapter, 'a "name": x', folder, questions)
    return folder


def official_steps(folder, image, points, labels, box=None):
    """segment-anything's ONNX example with nothing but numpy, Pillow and ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")
    height, width = image.shape[:2]
    scale = IMAGE_SIZE / max(height, width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    pixels = {encoder.get_inputs()[0].name: np.asarray(resized, np.float32)}
    (image_embedding,) = encoder.run(None, pixels)
    input_point, input_label = np.array(points, np.float64), np.array(labels)
    if box is None:  # a padding point
        onnx_coord = np.concatenate([input_point, [[0.0, 0.0]]])[None]
        onnx_label = np.concatenate([input_label, [-1]])[None]
    else:
        onnx_coord = np.concatenate([input_point.reshape(-1, 2), np.reshape(box, (2, 2))])[None]
        onnx_label = np.concatenate([input_label, [2, 3]])[None]
    onnx_coord = onnx_coord * [new_width / width, new_height / height]
    side = IMAGE_SIZE // 4
    masks, scores, low_res_logits = decoder.run(
        None,
        {
            "image_embeddings": image_embedding,
            "point_coords": onnx_coord.astype(np.float32),
            "point_labels": onnx_label.astype(np.float32),
            "mask_input": np.zeros((1, 1, side, side), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([height, width], np.float32),
        },
    )
    return masks[0, 0] > 0, float(scores[0, 0]), low_res_logits[0, 0]


@pytest.mark.parametrize("size", [(48, 64), (150, 97)])
@pytest.mark.parametrize(
    ("points", "labels", "box"),
    [
        ([(20, 30)], [1], None),
        ([(20, 30), (50, 10), (5, 40), (33, 33)], [1, 1, 0, 1], None),
        ([], [], (10, 5, 60, 40)),
        ([(30, 20)], [1], (10, 5, 60, 40)),
    ],
    ids=["click", "points", "box", "box and point"],
)
def test_the_official_steps_in_onnx_runtime_give_the_predictor_s_mask(
    tiny_sam, adapter, exported, size, points, labels, box
):
    image = photo(size, seed=1)  # not what was compared on when exporting
    mask, score, logits = official_steps(exported, image, points, labels, box)
    hits = [point for point, label in zip(points, labels, strict=True) if label]
    misses = [point for point, label in zip(points, labels, strict=True) if not label]
    embedding = tiny_sam.encode_image(image)
    prompt = Prompt.of(hits, misses, box)
    (expected,) = Predictor(tiny_sam, adapter, every_cell=True).predict(embedding, [prompt])
    assert mask.shape == size
    assert 0.02 < mask.mean() < 0.98
    assert (mask & expected.mask).sum() / (mask | expected.mask).sum() >= 0.999
    assert np.abs(logits - expected.low_res_logits).max() <= 1e-2
    assert score == pytest.approx(expected.score, abs=1e-4)


def test_the_decoder_has_the_official_signature(exported):
    graph = onnx.load(exported / "decoder.onnx").graph

    def shapes(values):
        return {
            value.name: [
                side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    grid = IMAGE_SIZE // 16
    assert shapes(graph.input) == {
        "image_embeddings": [1, 256, grid, grid],
        "point_coords": [1, "num_points", 2],
        "point_labels": [1, "num_points"],
        "mask_input": [1, 1, 4 * grid, 4 * grid],
        "has_mask_input": [1],
        "orig_im_size": [2],
    }
    assert list(shapes(graph.output)) == ["masks", "iou_predictions", "low_res_masks"]
    onnx.checker.check_model(exported / "decoder.onnx", full_check=True)
    onnx.checker.check_model(exported / "encoder.onnx", full_check=True)


def test_nothing_but_standard_operators_is_in_the_graphs(exported):
    for name in ("encoder.onnx", "decoder.onnx"):
        model = onnx.load(exported / name)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert [imported.version for imported in model.opset_import] == [17]


def test_model_yaml_is_what_x_anylabeling_reads_whatever_the_name(exported):
    yaml = pytest.importorskip("yaml")
    entries = yaml.safe_load((exported / "model.yaml").read_text())
    assert entries["type"] == "segment_anything"
    assert entries["name"] == 'samtune-a "name": x'
    assert set(entries) >= {"display_name", "input_size", "max_width", "max_height"}
    for key in ("encoder_model_path", "decoder_model_path"):
        assert (exported / entries[key]).is_file()


def test_parity_json_tells_what_was_compared(exported):
    told = json.loads((exported / "parity.json").read_text())
    assert told["questions"] == told["images"] == 1
    assert told["mask_iou"] >= 0.999
    assert 0 < told["low_res_difference"] <= 1e-2
    assert told["torch"] == torch.__version__
    assert told["quantized"] is False
    assert files_in(exported) == FILES


def test_quantized_files_are_smaller_and_hold_int8(tiny_sam, adapter, exported, tmp_path, caplog):
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    (parity,) = export_onnx(tiny_sam, adapter, "a", tmp_path, questions, quantize=True)
    decoder = tmp_path / "decoder.onnx"
    assert decoder.stat().st_size < (exported / "decoder.onnx").stat().st_size - 2_500_000
    kinds = {tensor.data_type for tensor in onnx.load(decoder).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert parity.mask_iou >= LEAST_IOU_INT8
    assert json.loads((tmp_path / "parity.json").read_text())["quantized"] is True
    assert files_in(tmp_path) == FILES
    assert not caplog.records  # the quantizer has nothing to complain of


def test_the_frozen_decoder_of_a_mixture_alone_is_not_quantized(tiny_sam, adapter, tmp_path):
    mixture = replace(adapter, learned=PromptLearning(None, adapter.learned.selector))
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    export_onnx(tiny_sam, mixture, "a", tmp_path, questions, quantize=True)
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "decoder.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 not in kinds
    assert files_in(tmp_path) == FILES


@pytest.mark.parametrize(
    ("parity", "quantized", "named"),
    [
        (Parity(3, 1, 0.02, 1.0, 1.0, 0.0), False, "logits"),
        (Parity(3, 1, 0.0, 0.998, 0.998, 0.0), False, "masks"),
        (Parity(3, 1, 2.0, 0.96, 1.0, 0.0), True, "--quantize"),
        (Parity(3, 1, float("nan"), float("nan"), float("nan"), 0.0), False, "masks"),
    ],
)
def test_files_that_answer_differently_are_not_written(
    tiny_sam, adapter, tmp_path, monkeypatch, parity, quantized, named
):
    monkeypatch.setattr("samtune.export.compare", lambda *arguments: parity)
    with pytest.raises(ExportError, match=named):
        export_onnx(tiny_sam, adapter, "a", tmp_path / "out", [], quantize=quantized)
    assert not (tmp_path / "out").exists()


def test_a_difference_is_seen_where_there_is_one(tiny_sam, exported):
    other = build_adapter(tiny_sam, seed=5)
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    files = exported / "encoder.onnx", exported / "decoder.onnx"
    parity = samtune.parity.compare(tiny_sam, other, *files, questions)
    assert parity.low_res_difference > 0.1
    assert parity.mask_iou < 0.99


@pytest.mark.parametrize(("logit", "passes"), [(0.005, True), (0.02, False)])
def test_a_pixel_that_rounding_decides_is_no_difference(
    tiny_sam, adapter, exported, monkeypatch, logit, passes
):
    opened = samtune.parity.open_session

    def with_another_pixel(path):
        session = opened(path)

        def run(inputs):
            masks, *others = session(inputs)
            if path.name == "decoder.onnx":
                nearest = np.unravel_index(np.abs(masks).argmin(), masks.shape)
                masks[nearest] = -logit if masks[nearest] > 0 else logit
            return [masks, *others]

        return run if path.name == "decoder.onnx" else session

    monkeypatch.setattr(samtune.parity, "open_session", with_another_pixel)
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    files = exported / "encoder.onnx", exported / "decoder.onnx"
    parity = samtune.parity.compare(tiny_sam, adapter, *files, questions)
    assert parity.mask_iou < 1
    assert (parity.decided_iou == 1) == passes


def test_objects_of_few_pixels_need_not_agree_where_rounding_decides():
    Parity(3, 1, 1e-4, 0.99, 1.0, 0.0).check(quantized=False)


def test_a_failed_export_leaves_the_files_of_an_earlier_one(
    tiny_sam, adapter, exported, tmp_path, monkeypatch
):
    for name in FILES:
        (tmp_path / name).write_bytes(b"provider: samtune, earlier")
    monkeypatch.setattr("samtune.export.compare", lambda *a: Parity(1, 1, 1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ExportError):
        export_onnx(tiny_sam, adapter, "a", tmp_path, [])
    assert files_in(tmp_path) == FILES
    assert all((tmp_path / name).read_bytes() == b"provider: samtune, earlier" for name in FILES)


def test_a_failed_export_leaves_the_folder_that_was_there(tiny_sam, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("samtune.export.compare", lambda *a: Parity(1, 1, 1.0, 0.0, 0.0, 0.0))
    with pytest.raises(ExportError):
        export_onnx(tiny_sam, adapter, "a", tmp_path, [])
    assert files_in(tmp_path) == set()
    assert tmp_path.is_dir()


def test_a_folder_in_a_file_s_place_is_said_before_anything_is_replaced(
    tiny_sam, adapter, tmp_path
):
    (tmp_path / "encoder.onnx").write_bytes(b"earlier")
    (tmp_path / "decoder.onnx").mkdir()
    with pytest.raises(OutputError, match=r"decoder\.onnx cannot be written: it is a folder"):
        export_onnx(tiny_sam, adapter, "a", tmp_path, [])
    assert (tmp_path / "encoder.onnx").read_bytes() == b"earlier"


def test_another_tool_s_model_is_not_overwritten(tiny_sam, adapter, tmp_path):
    (tmp_path / "model.yaml").write_text("provider: somebody")
    with pytest.raises(OutputError, match=r"model\.yaml is another model: give a folder"):
        export_onnx(tiny_sam, adapter, "a", tmp_path, [])


def test_a_folder_whose_name_is_no_text_is_said_so(tiny_sam, adapter, tmp_path):
    with pytest.raises(OutputError, match="is no name in UTF-8"):
        export_onnx(tiny_sam, adapter, "a", tmp_path / "\udcff", [])


@pytest.mark.parametrize("name", ["plates", 'a "b": c', "Straße", "\U0001f697", "\udcff"])
def test_labelling_tools_read_any_name(name):
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(_model_yaml(name, 1024))["display_name"]
    assert read == f"{name} (samtune)".encode(errors="replace").decode()


def test_a_folder_that_is_a_file_is_said_so(tiny_sam, adapter, tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="out"):
        export_onnx(tiny_sam, adapter, "a", tmp_path / "out", [])


def test_a_file_that_onnx_runtime_cannot_read_is_said_so(tmp_path):
    file = tmp_path / "decoder.onnx"
    model = onnx.helper.make_model(
        onnx.helper.make_graph([], "empty", [], []),
        opset_imports=[onnx.helper.make_opsetid("", 9999)],
    )
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"onnxruntime .* cannot load decoder\.onnx"):
        samtune.parity.open_session(file)


def test_an_encoder_beyond_what_a_file_can_hold_is_refused(
    tiny_sam, adapter, tmp_path, monkeypatch
):
    monkeypatch.setattr("samtune.onnx_files._LARGEST_ENCODER", 1000)
    with pytest.raises(ExportError, match="image encoder of mobile_sam"):
        export_onnx(tiny_sam, adapter, "a", tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_drawn_questions_ask_in_every_form_and_inside_the_drawing():
    questions = drawn_questions()
    assert all(question.image is questions[0].image for question in questions)
    forms = {(len(q.prompt.points), q.prompt.box is not None) for q in questions}
    assert forms == {(1, False), (3, False), (0, True), (1, True)}
    for question in questions:
        question.prompt.check_inside(question.image.shape[:2])
