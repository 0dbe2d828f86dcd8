"""The tree beside the tree, written out by hand."""

from common.images.folder_trees import compare_trees

EXPECTED = """
    train/
      <class>/
"""


def test_both_trees_written_out(tmp_path):
    (tmp_path / "b.txt").touch()
    for name in ("z/inner/deep", "a"):
        (tmp_path / name).mkdir(parents=True)
    for k in range(4):
        (tmp_path / "a" / f"{k}.jpg").touch()
    assert compare_trees(tmp_path, EXPECTED).splitlines() == [
        f"  expected in {tmp_path}:",
        "    train/",
        "      <class>/",
        "  found:",
        "    a/",
        "      0.jpg",
        "      1.jpg",
        "      2.jpg",
        "      ...",
        "    z/",
        "      inner/",
        "    b.txt",
    ]


def test_a_full_folder_is_cut_short(tmp_path):
    for k in range(50):
        (tmp_path / f"{k:02}").mkdir()
    found = compare_trees(tmp_path, EXPECTED).split("found:\n")[1].split()
    assert found == [*(f"{k:02}/" for k in range(12)), "..."]


def test_nothing_there(tmp_path):
    assert compare_trees(tmp_path, EXPECTED).endswith("nothing: the folder is empty")
    assert compare_trees(tmp_path / "no", EXPECTED).endswith("nothing: no such folder")
    (tmp_path / "file").touch()
    assert compare_trees(tmp_path / "file", EXPECTED).endswith("nothing: it is a file")
