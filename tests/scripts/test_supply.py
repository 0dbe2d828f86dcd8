"""What an installation brings along: hashes of what is pinned, and licences."""

import re
from pathlib import Path

import licences
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ \n]+)", (SCRIPTS / file).read_text(), re.MULTILINE)
    return {plain(name): version for name, version in found}


def test_the_hashes_are_of_the_versions_that_are_pinned() -> None:
    hashed, pinned = pins("hashes.txt"), pins("constraints.txt")
    assert {name: hashed[name] for name in pinned if name in hashed} == {
        name: version for name, version in pinned.items() if name in hashed
    }
    assert len(hashed) > 100
    text = (SCRIPTS / "hashes.txt").read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(hashed)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", block) for block in blocks)
    assert "://" not in text


@pytest.mark.once
def test_every_package_that_is_installed_has_a_hash_and_a_licence() -> None:
    table = (SCRIPTS / "licences.md").read_text().splitlines()
    stated = licences.table().splitlines()
    assert len(stated) > 40
    assert set(stated) <= set(table), "run python scripts/licences.py > scripts/licences.md"
    assert set(licences.needed()) - {"setuptools"} <= set(pins("hashes.txt"))
    # None of them asks that what uses it be free, too.
    assert not [line for line in table if re.search(r"\bA?GPL", line) and "LGPL" not in line]
