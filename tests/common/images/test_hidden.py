"""Which files are hidden, and photos found among them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from litter import RESOURCE_FORK, litter

from common.images.folder_trees import compare_trees
from common.images.hidden import children, descendants, is_hidden
from common.images.photos import find_photos
from common.images.predicting import say_passed_over


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("._IMG_1.jpg", True),
        (".DS_Store", True),
        ("Thumbs.db", True),
        ("THUMBS.DB", True),
        ("desktop.ini", True),
        ("@eaDir", True),
        ("__MACOSX", True),
        ("_IMG.jpg", False),
        ("__init__.jpg", False),
        ("thumbs.jpg", False),
        ("a.b.jpg", False),
    ],
)
def test_names(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden


def test_listings_leave_hidden_files_and_folders_out(tmp_path: Path) -> None:
    for name in ("b/c.txt", "a.txt", "A.TXT", "._a.txt", ".x/d.txt", "b/@eaDir/e.txt", "b/.f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert children(tmp_path) == [tmp_path / name for name in ("A.TXT", "a.txt", "b")]
    assert children(tmp_path, "*.txt") == [tmp_path / "a.txt"]
    assert descendants(tmp_path, "*.txt") == [tmp_path / "a.txt", tmp_path / "b/c.txt"]
    (tmp_path / "b/up").symlink_to("..")
    (tmp_path / "b/itself").symlink_to(".")
    assert descendants(tmp_path / "b", "*.txt") == [tmp_path / "b/c.txt"]
    for link in ("b/up", "b/itself"):
        (tmp_path / link).unlink()
    assert children(tmp_path / ".x") == [tmp_path / ".x/d.txt"]  # what a user names is meant
    assert children(tmp_path / "nowhere") == children(tmp_path / "a.txt") == []
    assert compare_trees(tmp_path, "a/").endswith(f"Found in {tmp_path}: b/ (c.txt), A.TXT, a.txt")


def test_photos_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    for name in ("1.jpg", "trip/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((8, 8, 3), 90, np.uint8))
    litter(root)
    (root / "notes.txt").touch()
    photos = find_photos([root])
    assert photos.names == ("1.jpg", "trip/2.jpg")
    say_passed_over(photos)
    assert capsys.readouterr().out == f"1 other file skipped, such as {root / 'notes.txt'}\n"
    assert find_photos([root / "**" / "*"]).names == photos.names
    hidden = root / ".hidden.jpg"  # named, it is meant
    hidden.write_bytes(RESOURCE_FORK)
    assert find_photos([hidden]).paths == (hidden,)
