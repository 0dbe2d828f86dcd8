"""The line beside the line, written out by hand."""

from common.images.folder_trees import compare_trees

EXPECTED = """
    train/
      <class>/
        <any name>.jpg, .png
    val/    (or test/)
      <class>/
    list.csv
"""


def test_both_written_out(tmp_path):
    (tmp_path / "b.txt").touch()
    for name in ("z/inner/deep", "a", "c\n"):
        (tmp_path / name).mkdir(parents=True)
    for k in range(4):
        (tmp_path / "a" / f"{k}.jpg").touch()
    assert compare_trees(tmp_path, EXPECTED) == (
        "  expected: train/<class>/<any name>.jpg, .png; val/ (or test/) <class>/; list.csv. "
        f"Found in {tmp_path}: a/ (0.jpg, 1.jpg, 2.jpg, ...), c\\n/, z/ (inner/), b.txt"
    )


def test_a_full_folder_is_cut_short(tmp_path):
    for k in range(50):
        (tmp_path / f"{k:02}").mkdir()
    assert compare_trees(tmp_path, EXPECTED).endswith(": 00/, 01/, 02/, 03/, 04/, 05/, ...")


def test_nothing_there(tmp_path):
    assert compare_trees(tmp_path, EXPECTED).endswith("nothing: the folder is empty")
    assert compare_trees(tmp_path / "no", EXPECTED).endswith("nothing: no such folder")
    (tmp_path / "file").touch()
    assert compare_trees(tmp_path / "file", EXPECTED).endswith("nothing: it is a file")
