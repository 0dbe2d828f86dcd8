"""matches.npz: what it gives back, and what it is not read for."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scenes import detections_of, truth_of

from detect.scoring import scored_folder
from detect.scoring.bootstrap import resampled_ap, split_and_draws
from detect.scoring.detections import Detections
from detect.scoring.matches import Matches, match
from detect.scoring.matches_file import NAME, Scored, read_scored, write_scored

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
