"""Where things stand: which folders may import which, and what a distribution holds."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = ("common.errors", "common.recipe", "common.storage", "common.text")
ALLOWED: dict[str, tuple[str, ...]] = {
    "common": ("common.method",),
    "common.errors": ("common.text",),
    "common.recipe": (),
    "common.storage": ("common.errors", "common.text"),
    "common.text": (),
    "common.method": (),
    "common.command": (*GROUND, "common.processes"),
    "common.processes": GROUND,
    "common.images": (*GROUND, "common.processes"),
    "common.runs": GROUND,
    "common.weights": (*GROUND, "common.processes", "common.runs"),
    "common.optimization": (*GROUND, "common.method", "common.processes", "common.runs"),
    "common.training": (
        *GROUND,
        "common.command",
        "common.images",
        "common.method",
        "common.optimization",
        "common.processes",
        "common.runs",
    ),
}
"""What each part of `common` may import beside itself."""


def modules(*tops: str) -> dict[str, Path]:
    """Return every module below some folders by its dotted name."""
    found = {}
    for path in (path for top in tops for path in (ROOT / top).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules("common", "pretrain", "detect")


def imports(name: str) -> Iterator[str]:
    """Yield the modules of ours that a module imports, wherever in it."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in MODULES or base in MODULES:
                    yield full if full in MODULES else base


def part_of(name: str) -> str:
    """Return the folder that a module stands in; a file beside folders stands for itself."""
    path = MODULES[name]
    folder = path.parent.relative_to(ROOT)
    if path.name == "__init__.py":
        return name
    beside_folders = any(
        child.is_dir() and (child / "__init__.py").exists() for child in path.parent.iterdir()
    )
    return name if beside_folders else ".".join(folder.parts)


ARROWS = {
    (part_of(name), part_of(target))
    for name in MODULES
    for target in imports(name)
    if part_of(name) != part_of(target)
}


def test_there_are_arrows() -> None:
    assert ("common.training", "common.runs") in ARROWS
    assert ("common", "common.method") in ARROWS
    assert len(MODULES) > 100


@pytest.mark.parametrize("part", sorted({part_of(name) for name in modules("common")}))
def test_common_imports_downwards(part: str) -> None:
    assert {target for source, target in ARROWS if source == part} <= set(ALLOWED[part])


def test_stages_meet_in_files_alone() -> None:
    for source, target in ARROWS:
        top, other = source.split(".")[0], target.split(".")[0]
        assert other in (top, "common"), f"{source} imports {target}"


def test_no_folder_is_entered_from_below() -> None:
    """Follow the arrows: none leads back."""
    below: dict[str, set[str]] = {}
    for source, target in ARROWS:
        below.setdefault(source, set()).add(target)

    def reached(part: str, seen: set[str]) -> set[str]:
        for target in below.get(part, set()) - seen:
            seen.add(target)
            reached(target, seen)
        return seen

    assert [part for part in below if part in reached(part, set())] == []


def test_the_method_needs_torch_alone() -> None:
    standard = sys.stdlib_module_names
    for name in modules("common/method"):
        for node in ast.walk(ast.parse(MODULES[name].read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= {*standard, "torch"}
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] in {*standard, "torch"}, name


def test_common_is_folders() -> None:
    assert len(list((ROOT / "common").glob("*.py"))) <= 4


def test_the_distribution_lists_every_package() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(tool["packages"]) == packages | {"focused_dropout"}
    assert tool["package-dir"] == {"focused_dropout": "common/method"}


def test_the_walks_lead_through_files_that_are_there() -> None:
    section = (ROOT / "common/README.md").read_text().split("## Three walks\n")[1].split("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", section)
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert sorted(set(files)) == sorted(files)
