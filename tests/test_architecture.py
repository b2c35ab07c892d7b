"""The layout of the package, held by a test (design.md's section 5 in code)."""

import ast
from pathlib import Path

import samtune

PACKAGE = Path(samtune.__file__).parent

READING_ORDER = [
    "errors",
    "words",
    "allocation",
    "joining",
    "evenly",
    "stages",
    "config",
    "files",
    "upright",
    "images",
    "polygons",
    "outlines",
    "rle",
    "pairs",
    "masks",
    "mask_files",
    "annotations",
    "read_coco",
    "read_yolo",
    "read_labelme",
    "annotation_objects",
    "dataset",
    "foreign_masks",
    "prompts",
    "prompt_text",
    "onnx_weights",
    "sources",
    "fetching",
    "checkpoints",
    "weights",
    "tiny_vit",
    "attention",
    "image_cells",
    "two_way",
    "decoder",
    "specks",
    "nearness",
    "upscaling",
    "u_net",
    "dense_prompt",
    "input_frame",
    "sam",
    "embeddings",
    "check",
    "precision",
    "losses",
    "metrics",
    "plm",
    "selector",
    "clicked",
    "presence",
    "object_map",
    "pmm",
    "contour_refiner",
    "rough_contours",
    "supervision",
    "draws",
    "targets",
    "reference_cells",
    "method",
    "open_cells",
    "map_regions",
    "location_prior",
    "object_search",
    "prompt_learning",
    "persam",
    "reference_dense_prompt",
    "vrp",
    "reference_prompting",
    "references",
    "adapter",
    "refinement",
    "decoded",
    "predictor",
    "turns",
    "parts",
    "finding",
    "following",
    "sam_f",
    "reference_fit",
    "sensitivity",
    "onnx_graphs",
    "onnx_files",
    "parity",
    "export",
    "web_runtime",
    "export_web",
    "found_scores",
    "evaluation",
    "coarse_scores",
    "obedience",
    "summaries",
    "curves",
    "resume",
    "processes",
    "steps",
    "learner",
    "vrp_learner",
    "run",
    "training_run",
    "trials",
    "presence_fit",
    "object_map_fit",
    "refiner_fit",
    "forecast",
    "encoding",
    "training",
    "vrp_fit",
    "overlay",
    "sensitivity_map",
    "report_pictures",
    "report_data",
    "report",
    "report_parts",
    "report_curves",
    "report_gallery",
    "report_origin",
    "report_page",
    "shards",
    "results",
    "writers",
    "write_polygons",
    "write_coco",
    "formats",
    "pipeline",
    "ray_blocks",
    "console",
    "cli_inputs",
    "cli_report",
    "cli_answers",
    "cli_questions",
    "cli_formats",
    "cli_references",
    "cli_results",
    "cli_sources",
    "cli_segmenter",
    "cli_outcomes",
    "cli_ray",
    "cli_cache",
    "cli_fit_result",
    "cli_fit_data",
    "cli_fit_references",
    "cli_fit_course",
    "cli_fit_vrp",
    "cli_fit_plm",
    "cli_fit",
    "cli_check",
    "cli_prompts",
    "cli_segment",
    "cli_evaluate",
    "cli_sensitivity",
    "cli_refine_formats",
    "cli_refine",
    "cli_export",
    "cli",
]


def tree(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


def modules():
    return sorted(path.stem for path in PACKAGE.glob("[!_]*.py"))


def is_command_line(name):
    return name.startswith(("cli", "console"))


def imports(name):
    """Full names of all modules that a module imports anywhere, also within functions."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_reading_order_lists_every_module():
    assert sorted(READING_ORDER) == modules()


def test_modules_import_only_modules_read_before_them():
    for position, name in enumerate(READING_ORDER):
        own = {module.split(".")[1] for module in imports(name) if module.startswith("samtune.")}
        too_early = own - set(READING_ORDER[:position])
        assert not too_early, f"{name}.py imports {sorted(too_early)}, which come after it"


def test_modules_of_the_package_are_imported_in_one_form_only():
    # `import samtune.x` and relative imports would slip past the reading order above.
    for name in modules():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}.py has a relative import"
                taken = {alias.name for alias in node.names} if node.module == "samtune" else set()
                assert taken <= {"__version__"}, f"{name}.py imports {taken} from samtune"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.split(".")[0] != "samtune", f"{name}.py: import {alias.name}"


def test_only_the_command_line_knows_typer_and_rich():
    knowing = {
        name
        for name in modules()
        if {module.split(".")[0] for module in imports(name)} & {"typer", "rich"}
    }
    assert knowing
    assert all(is_command_line(name) for name in knowing), knowing


def test_nobody_imports_click():
    # Typer from 0.26 on brings its own; the package click may be missing or another version.
    for name in modules():
        assert not any(module.split(".")[0] == "click" for module in imports(name)), name


def test_only_sam_touches_segment_anything():
    def names(name):
        """What a module imports, and its strings: sam.py loads modules by name."""
        yield from imports(name)
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    touching = [
        name
        for name in modules()
        if any(text.split(".")[0] == "segment_anything" for text in names(name))
    ]
    assert touching == ["sam"]


def test_no_file_is_ever_unpickled_in_full():
    # A pickle can run any code. torch.load without weights_only=True is one, like pickle.load.
    for name in modules():
        assert "pickle" not in set(imports(name)), name
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True", f"{name}.py, line {node.lineno}"


def test_the_library_prints_nothing():
    for name in modules():
        if not is_command_line(name):
            calls = {ast.unparse(n.func) for n in ast.walk(tree(name)) if isinstance(n, ast.Call)}
            printing = calls & {"print", "sys.stdout.write", "sys.stderr.write", "warnings.warn"}
            assert not printing, f"{name}.py calls {printing}"


def test_readme_lists_every_module_in_reading_order():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    tree_of_files = readme.split("in reading order\n")[1].split("\nsamtune/web/")[0]
    assert [line.split()[0] for line in tree_of_files.splitlines()] == READING_ORDER
