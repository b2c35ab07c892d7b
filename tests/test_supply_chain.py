"""What samtune is installed with: floors that agree, and an audit that says what it knows."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def requirements():
    """All of pyproject.toml, those of the extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    return [Requirement(text) for text in (*project["dependencies"], *extras)]


def pinned(name):
    """Package -> version of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({one.name for one in found}) == len(found)
    return {one.name: exact(one) for one in found}


def exact(requirement):
    (one,) = requirement.specifier
    assert one.operator == "=="
    return Version(one.version)


def test_floors_are_the_lowest_versions_that_pyproject_allows():
    ranges = {one.name: one.specifier for one in requirements() if "==" not in str(one.specifier)}
    floors = pinned("constraints-floors.txt")
    assert set(floors) == set(ranges)
    for name, specifier in ranges.items():
        (lowest,) = (Version(one.version) for one in specifier if one.operator == ">=")
        assert floors[name] in specifier
        assert floors[name].release[: len(lowest.release)] == lowest.release, name


def test_tools_are_pinned_and_dependencies_are_ranges():
    tools = {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"}
    for one in requirements():
        operators = {specifier.operator for specifier in one.specifier}
        assert operators == ({"=="} if one.name in tools else {">="}), one


def test_what_our_machines_install_is_within_the_ranges():
    ranges = {one.name: one.specifier for one in requirements()}
    for name, version in pinned("constraints.txt").items():
        assert version in ranges[name]


def test_what_make_installs_beside_is_pinned_too():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in re.findall(r"pip install (.*)", makefile):
        assert "--editable" in line or re.search(r"\w==\d", line), line


PILLOW = {"name": "pillow", "version": "9.0.0", "vulns": []}
HOLE = {"id": "CVE-2022-22817", "fix_versions": ["9.0.1"]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ([PILLOW], 0, "0 known vulnerabilities in 1 packages"),
        ([{**PILLOW, "vulns": [HOLE]}], 1, "pillow 9.0.0: CVE-2022-22817; fixed in: 9.0.1"),
        ([PILLOW, UNKNOWN], 0, "torch: not audited"),
        ([UNKNOWN, UNKNOWN], 3, "could not be reached (it answered for none of 2 packages)"),
        (None, 3, "could not be reached (no route to host)"),
    ],
    ids=["clean", "vulnerable", "one unknown", "all unknown", "no network"],
)
def test_an_audit_that_could_ask_nobody_is_no_all_clear(report, code, said, tmp_path):
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    tool = tmp_path / "bin" / "pip-audit"  # as pip-audit 2.10.1 behaves in these cases
    tool.parent.mkdir()
    lines = [f"#!{sys.executable}", "import sys"]
    if report is not None:
        content = json.dumps({"dependencies": report, "fixes": []})
        lines.append(f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({content!r})")
    has_any = report is None or any(one.get("vulns") for one in report)
    lines += ["print('no route to host', file=sys.stderr)", f"sys.exit({int(has_any)})"]
    tool.write_text("\n".join(lines))
    tool.chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
