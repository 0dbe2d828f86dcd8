"""matches.npz: what it gives back, and what it is not read for."""

from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest
from scenes import detections_of, truth_of

from detect.scoring import scored_folder
from detect.scoring.bootstrap import resampled_ap, split_and_draws
from detect.scoring.detections import Detections
from detect.scoring.matches import Matches, match
from detect.scoring.matches_file import (
    NAME,
    Scored,
    digest_of,
    read_scored,
    truth_digest,
    write_scored,
)

A, B = (0.1, 0.2, 10.3, 10.4), (40, 40, 60, 60)
TRUTH = truth_of([(0, 0, A, False), (0, 1, B, True), (1, 1, B, False)], ("cat", "dog"), 3)
FOUND = detections_of(
    [(0, 0, 1 / 3, A), (1, 1, 0.5, B), (2, 0, 0.25, A), (1, 0, 0.2, B), (0, 1, 0.1, B)]
)


@pytest.fixture
def scored():
    matches = match(TRUTH, FOUND)
    draws = split_and_draws(TRUTH, 7, 0)
    return Scored(FOUND, matches, resampled_ap(TRUTH, FOUND, draws, 0.5, matches))


@pytest.mark.parametrize("kept", ["11111", "00000", "01110", "10011", "11010"])
def test_selected_matches_are_those_of_selected_detections(kept):
    rows = np.array(list(kept)) == "1"
    ours, theirs = match(TRUTH, FOUND).select(rows), match(TRUTH, FOUND.select(rows))
    for field in fields(Matches):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "x.txt").write_text("a")
    return tmp_path / "voc"


def test_everything_returns_unchanged(tmp_path, source, scored):
    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    again = read_scored(tmp_path, TRUTH, source, 0.5)
    for kind, name in ((Detections, "detections"), (Matches, "matches")):
        for field in fields(kind):
            ours, theirs = (getattr(getattr(s, name), field.name) for s in (again, scored))
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    np.testing.assert_array_equal(again.resampled, scored.resampled)
    write_scored(tmp_path, replace(scored, resampled=None), TRUTH, source, 0.5)
    assert read_scored(tmp_path, TRUTH, None, 0.5).resampled is None
    write_scored(tmp_path, scored, TRUTH, None, 0.5)  # of detections that lie nowhere
    assert read_scored(tmp_path, TRUTH, None, 0.5)
    assert read_scored(tmp_path, TRUTH, source, 0.5) is None
    with np.load(tmp_path / NAME) as file:
        assert file["of"].tolist() == ["2", truth_digest(TRUTH), "0.5", "integer", ""]


def test_it_is_read_for_nothing_else(tmp_path, source, scored):
    write_scored(tmp_path, scored, TRUTH, source, 0.5, "float")
    assert read_scored(tmp_path, TRUTH, source, 0.5, "float")
    assert read_scored(tmp_path, TRUTH, source, 0.5) is None
    assert read_scored(tmp_path, TRUTH, source, 0.6, "float") is None
    moved = replace(TRUTH, box=TRUTH.box + 1e-9)
    assert read_scored(tmp_path, moved, source, 0.5, "float") is None
    named = replace(TRUTH, image_ids=("x", "y", "z"))
    assert read_scored(tmp_path, named, source, 0.5, "float") is None
    (source / "x.txt").write_text("b")
    assert read_scored(tmp_path, TRUTH, source, 0.5, "float") is None
    assert read_scored(tmp_path, TRUTH, None, 0.5, "float")  # the detections themselves are gone


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip", None])
def test_a_damaged_file_is_none(tmp_path, source, scored, content):
    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert read_scored(tmp_path, TRUTH, source, 0.5) is None
    (tmp_path / NAME).unlink()
    assert read_scored(tmp_path, TRUTH, source, 0.5) is None


def changed(tmp_path, name, edit):
    """Read the file with one of its arrays changed."""
    with np.load(tmp_path / NAME) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(tmp_path / NAME, **arrays | {name: edit(arrays[name])})
    return read_scored(tmp_path, TRUTH, None, 0.5)


def first(value):
    def edit(array):
        array = array.copy()
        array.flat[0] = value
        return array

    return edit


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        # Of three images, two classes, three objects; five detections and three pairs.
        ("detections_image", 0, 2),
        ("detections_label", 0, 1),
        ("matches_falling", 0, 4),
        ("matches_order", 0, 4),
        ("matches_bounds", 0, 5),
        ("matches_nearest", -1, 2),
        ("matches_other_nearest", -1, 2),
        ("matches_pairs", 0, 4),
    ],
)
def test_rows_that_lead_to_nothing_are_not_read(tmp_path, source, scored, name, low, high):
    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    assert changed(tmp_path, name, first(low)) and changed(tmp_path, name, first(high))
    for edit in (
        first(low - 1),
        first(high + 1),
        lambda array: array[:-1] if name != "matches_pairs" else array[:, :1],
        lambda array: np.concatenate([array, array], axis=-1),
        lambda array: array[..., None],
        lambda array: array.astype(np.float64),
    ):
        write_scored(tmp_path, scored, TRUTH, source, 0.5)
        assert changed(tmp_path, name, edit) is None


@pytest.mark.parametrize(("value", "fits"), [(-1, False), (0, True), (2, True), (3, False)])
def test_objects_of_pairs_are_there(tmp_path, source, scored, value, fits):
    def edit(pairs):
        return np.stack([pairs[:, 0], np.full(len(pairs), value, pairs.dtype)], axis=1)

    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    assert (changed(tmp_path, "matches_pairs", edit) is not None) == fits


@pytest.mark.parametrize(
    "name",
    [
        "detections_score",
        "detections_box",
        "matches_overlap",
        "matches_other_overlap",
        "resampled",
    ],
)
def test_numbers_that_are_missing_are_not_read(tmp_path, source, scored, name):
    edits = [
        lambda array: array[..., :-1],
        lambda array: array[..., None],
        lambda array: array.astype(np.float32),
    ]
    if name != "resampled":  # a class without objects has no AP
        edits += [first(np.nan), first(np.inf), lambda array: array[:-1]]
    for edit in edits:
        write_scored(tmp_path, scored, TRUTH, source, 0.5)
        assert changed(tmp_path, name, edit) is None
    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    assert changed(tmp_path, name, first(0.75)) is not None


def test_nothing_found_is_read_too(tmp_path, source):
    nothing = detections_of([])
    for truth in (TRUTH, truth_of([], ("cat", "dog"), 3), truth_of([], (), 0)):
        write_scored(
            tmp_path, Scored(nothing, match(truth, nothing), None), truth, source, 0.5, "float"
        )
        again = read_scored(tmp_path, truth, source, 0.5, "float")
        assert again and len(again.detections.score) == 0 and again.resampled is None


@pytest.mark.parametrize(("largest", "kind"), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_indices_take_four_bytes_where_they_fit(tmp_path, source, scored, largest, kind):
    """In the file; they are read as they were."""
    order = scored.matches.order.copy()
    order[1] = largest
    matches = replace(scored.matches, order=order)
    write_scored(tmp_path, replace(scored, matches=matches), TRUTH, source, 0.5)
    with np.load(tmp_path / NAME) as file:
        assert file["matches_order"].dtype == kind and file["matches_order"][1] == largest
        assert file["matches_nearest"].dtype == np.int32
        assert file["detections_box"].dtype == np.float64


def test_a_digest_is_of_names_sizes_and_content(tmp_path):
    """Written out for three files, one of which is read in two pieces; folders do not count."""
    large = bytes(range(256)) * 5000
    for name, content in (("b.txt", b"two"), ("a.txt", b""), ("c.bin", large)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.txt").write_text("not read")
    whole = b"a.txt\x000\x00" + b"b.txt\x003\x00two" + b"c.bin\x001280000\x00" + large
    assert digest_of(tmp_path) == sha256(whole).hexdigest()
    assert digest_of(tmp_path / "b.txt") == sha256(b"b.txt\x003\x00two").hexdigest()


def test_a_digest_is_of_all_that_matching_reads_of_a_split():
    other = {
        "classes": ("cat", "cow"),
        "image_ids": ("000000", "000001", "000003"),
        "sizes": TRUTH.sizes + 1,
        "image": TRUTH.image[::-1],
        "label": 1 - TRUTH.label,
        "box": TRUTH.box.T.copy().reshape(-1, 4),
        "difficult": ~TRUTH.difficult,
    }
    moved = [replace(TRUTH, **{name: value}) for name, value in other.items()]
    moved.append(replace(TRUTH, classes=("cat", "dog", "000000"), image_ids=TRUTH.image_ids[1:]))
    assert len({truth_digest(truth) for truth in (TRUTH, *moved)}) == 9
    strided = replace(TRUTH, box=np.asfortranarray(TRUTH.box))
    assert truth_digest(strided) == truth_digest(TRUTH)


def test_a_pickle_in_it_is_not_opened(tmp_path, source):
    np.savez(tmp_path / NAME, of=np.array([object()]))
    assert read_scored(tmp_path, TRUTH, source, 0.5) is None


def test_a_selection_of_matches_is_a_matching_of_the_selection():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 40, (60, 2))
    rows = [
        (int(rng.integers(3)), int(rng.integers(2)), float(rng.integers(5)) / 5, (*c, *(c + 12)))
        for c in corner
    ]
    found = detections_of(rows)
    kept = rng.random(60) < 0.6
    ours, again = match(TRUTH, found).select(kept), match(TRUTH, found.select(kept))
    for field in fields(Matches):
        assert np.array_equal(getattr(ours, field.name), getattr(again, field.name)), field.name


def test_a_scored_folder_is_loaded_without_matching_again(tmp_path, source, scored, monkeypatch):
    write_scored(tmp_path, scored, TRUTH, source, 0.5)
    (tmp_path / "evaluation.json").write_text('{"detections": "voc"}')
    monkeypatch.setattr(scored_folder, "match", None)
    monkeypatch.setattr(scored_folder, "resampled_ap", None)
    loaded = scored_folder.load_scored(tmp_path, TRUTH, 0.5, resamples=7)
    np.testing.assert_array_equal(loaded.resampled, scored.resampled)
