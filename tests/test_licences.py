"""THIRD_PARTY.md against what the installed packages say about themselves."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from samtune.sources import ONNXRUNTIME_WEB, SOURCES

ROOT = Path(__file__).parents[1]
# What packages write where an SPDX identifier belongs.
SPDX = {
    "MIT License": "MIT",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "FreeBSD": "BSD-2-Clause",
}


def listed(heading):
    """The rows of the table below a heading: name -> the cells behind it."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line[:1] == "|"][2:]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert len({row[0] for row in cells}) == len(cells) > 0
    return {name: rest for name, *rest in cells}


def required():
    """Names of all packages in pyproject.toml, with those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    return {Requirement(text).name.lower() for text in (*project["dependencies"], *extras)}


def declared(package):
    """The set of SPDX identifiers that an installed package declares, however it does so."""
    found = distribution(package)
    about = found.metadata
    if expression := about.get("License-Expression"):
        return set(expression.split(" AND "))
    classified = [text for text in about.get_all("Classifier") or [] if text[:9] == "License :"]
    if classified:
        names = {text.split(" :: ")[-1] for text in classified}
    elif about.get("License"):
        names = {about["License"]}
    else:
        (file,) = [file for file in found.files or [] if file.name == "LICENSE"]
        heading = " ".join(file.read_text().split()[:4])
        assert heading == "Apache License Version 2.0,", f"{package}: {heading}"
        names = {"Apache-2.0"}
    return {SPDX.get(name, name) for name in names}


def test_third_party_lists_every_dependency_of_pyproject_and_no_other():
    assert set(listed("Python packages")) == required()


@pytest.mark.parametrize("package", sorted(required()))
def test_third_party_has_the_licence_that_a_package_declares(package):
    version, licence, _ = listed("Python packages")[package]
    if package == "ray":  # 240 MB that `make install` leaves out
        pytest.importorskip(package, reason="Ray is not installed: pip install 'samtune[ray]'")
    told, found = set(licence.split(" AND ")), declared(package)
    if distribution(package).version.split("+")[0] == version:
        assert told == found
    else:  # another version of the range may contain less, not more
        assert found <= told


def test_third_party_has_the_weights_and_packages_that_samtune_fetches():
    weights = {name: cells[0] for name, cells in listed("Pretrained weights").items()}
    assert weights == {name: source.licence for name, source in SOURCES.items()}
    packages = [source.npm for source in SOURCES.values() if source.npm] + [ONNXRUNTIME_WEB]
    assert {f"{name}@{v}": licence for name, (v, licence, _) in listed("npm packages").items()} == {
        package.spec: package.licence for package in packages
    }


def test_readme_leads_to_the_licences():
    assert re.search(r"\]\(THIRD_PARTY\.md\)", (ROOT / "README.md").read_text(encoding="utf-8"))
