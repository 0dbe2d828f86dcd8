"""Detections through both file formats, and what is refused in them."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenes import detections_of, truth_of

from common.errors import InputError
from detect.scoring.detections import Detections, ground_truth, integer_ids
from detect.scoring.formats.class_texts import write_class_texts
from detect.scoring.formats.coco_json import write_coco_json
from detect.scoring.formats.reading import read_detections

CLASSES = ("cat", "dog")
GOOD = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}


def split(image_ids=("000001", "2008_000008"), classes=CLASSES):
    truth = truth_of([], classes, image_ids)
    return replace(truth, sizes=np.full((len(image_ids), 2), 2000))


def assert_same(found, expected):
    for name in ("image", "label", "score", "box"):
        got, want = getattr(found, name), getattr(expected, name)
        assert got.dtype == want.dtype and got.shape == want.shape
        assert got.tolist() == want.tolist()


def by_class(detections):
    """The order of VOC text: by class, within a class as given."""
    order = np.argsort(detections.label, kind="stable")
    return Detections(
        detections.image[order],
        detections.label[order],
        detections.score[order],
        detections.box[order],
    )


def text_folder(tmp_path, cat="", dog="", prefix="comp4_det_test"):
    (tmp_path / f"{prefix}_cat.txt").write_text(cat)
    (tmp_path / f"{prefix}_dog.txt").write_text(dog)
    return tmp_path


def json_file(tmp_path, content):
    file = tmp_path / "detections.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def annotation(image_id, boxes, labels, difficult, size=(500, 375)):
    """The columns of a detect.data.voc.Annotation."""
    return SimpleNamespace(
        image_id=image_id,
        width=size[0],
        height=size[1],
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        difficult=np.array(difficult, dtype=np.bool_),
        areas=None,
    )


def test_ground_truth_stacks_annotations():
    truth = ground_truth(
        [
            annotation("a", [[0, 1, 2, 3], [4, 5, 6, 7]], [1, 0], [False, True]),
            annotation("b", [], [], [], size=(300, 200)),
            annotation("c", [[8, 9, 10, 11]], [1], [False]),
        ],
        CLASSES,
    )
    assert truth.classes == CLASSES
    assert truth.image_ids == ("a", "b", "c")
    assert truth.sizes.tolist() == [[500, 375], [300, 200], [500, 375]]
    assert truth.image.tolist() == [0, 0, 2]
    assert truth.label.tolist() == [1, 0, 1]
    assert truth.box.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert truth.difficult.tolist() == [False, True, False]
    assert (truth.image.dtype, truth.label.dtype) == (np.int64, np.int64)
    assert (truth.box.dtype, truth.difficult.dtype) == (np.float64, np.bool_)


def test_ground_truth_takes_what_the_data_state_beside():
    """Areas of a segmentation, where one image of them has these; names that are not the ids."""
    images = [
        annotation("a", [[0, 1, 2, 4]], [1], [False]),
        annotation("b", [[0, 0, 5, 5], [1, 1, 3, 3]], [0, 1], [False, False]),
    ]
    plain = ground_truth(images, CLASSES)
    assert plain.area is None and plain.category_ids == plain.file_names == ()
    images[1].areas = np.array([7.0, 3.5])
    stated = ground_truth(images, CLASSES, [3, "x"], ["a", "c"])
    assert stated.area.tolist() == [6.0, 7.0, 3.5]
    assert (stated.category_ids, stated.file_names) == ((3, "x"), ("a", "c"))
    assert ground_truth(images, CLASSES, (), ["a", "b"]).file_names == ()


@pytest.mark.parametrize(
    ("image_ids", "numbers"),
    [
        ((), []),
        (("7", "000008"), [7, 8]),
        (("2008_000008", "1"), [2008000008, 1]),
        (("1", "01"), None),
        (("a", "1"), None),
        (("1", "²"), None),
        (("٣", "1"), None),
        (("_", "1"), None),
        (("-1", "1"), None),
    ],
)
def test_image_ids_as_numbers(image_ids, numbers):
    assert integer_ids(image_ids) == numbers


def test_some_of_the_detections():
    rows = [(0, 1, 0.5, (0, 0, 1, 1)), (1, 0, 0.25, (0, 0, 2, 2)), (0, 0, 0.125, (0, 0, 3, 3))]
    found = detections_of(rows)
    assert_same(found.select(np.array([2, 0])), detections_of([rows[2], rows[0]]))
    assert_same(found.select(np.array([False, True, True])), detections_of(rows[1:]))


def test_ground_truth_without_images():
    truth = ground_truth([], CLASSES)
    assert truth.sizes.shape == (0, 2) and truth.box.shape == (0, 4)
    assert truth.image.dtype == truth.label.dtype == np.int64


def test_ground_truth_refuses_an_image_twice():
    with pytest.raises(InputError, match="image b occurs twice"):
        ground_truth([annotation(name, [], [], []) for name in "abcb"], CLASSES)


def test_voc_text_is_the_kits(tmp_path):
    rows = [(1, 1, 0.25, (0, 1, 10, 20)), (0, 1, 0.5, (7.5, 0, 8, 9))]
    write_class_texts(detections_of(rows), split(), tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert (folder / "comp4_det_test_cat.txt").read_text() == ""
    assert (folder / "comp4_det_test_dog.txt").read_text() == (
        "2008_000008 0.25 1.0 2.0 10.0 20.0\n000001 0.5 8.5 1.0 8.0 9.0\n"
    )


def test_coco_json_is_cocos(tmp_path):
    rows = [(1, 1, 0.25, (0, 1, 10, 21)), (0, 0, 0.5, (7.5, 0, 8, 9))]
    write_coco_json(detections_of(rows), split(), tmp_path / "new" / "d.json")
    assert json.loads((tmp_path / "new" / "d.json").read_text()) == [
        {"image_id": 2008000008, "category_id": 2, "bbox": [0, 1, 10, 20], "score": 0.25},
        {"image_id": 1, "category_id": 1, "bbox": [7.5, 0, 0.5, 9], "score": 0.5},
    ]


@pytest.mark.parametrize("image_ids", [("a1", "000002"), ("000001", "1"), ("1_1", "11")])
def test_image_ids_without_an_integer_form_stay_strings(tmp_path, image_ids):
    detections = detections_of([(1, 0, 0.5, (0, 0, 9, 9)), (0, 0, 0.5, (0, 0, 9, 9))])
    truth = split(image_ids)
    write_coco_json(detections, truth, tmp_path / "d.json")
    entries = json.loads((tmp_path / "d.json").read_text())
    assert [entry["image_id"] for entry in entries] == [image_ids[1], image_ids[0]]
    assert_same(read_detections(tmp_path / "d.json", truth), detections)
    with pytest.raises(InputError, match="entry 1: image 77 is not in the split"):
        read_detections(json_file(tmp_path, [GOOD | {"image_id": 77}]), truth)


def test_both_forms_of_image_id_are_read(tmp_path):
    entries = [GOOD | {"image_id": image_id} for image_id in ("2008_000008", 2008000008, 1)]
    found = read_detections(json_file(tmp_path, entries), split())
    assert found.image.tolist() == [1, 1, 0]


def test_text_of_another_writer(tmp_path):
    folder = text_folder(
        tmp_path,
        cat="\n000001\t.5  1 2 3 4  \r\n\n2008_000008 1e-3 10 20 30.5 40",
        prefix="comp3_det_val",
    )
    (folder / "notes.txt").write_text("not a class file")
    expected = [(0, 0, 0.5, (0, 1, 3, 4)), (1, 0, 0.001, (9, 19, 30.5, 40))]
    assert_same(read_detections(folder, split()), detections_of(expected))


def test_comp4_wins_over_other_prefixes(tmp_path):
    text_folder(tmp_path, cat="000001 0.1 1 1 2 2\n", prefix="comp3_det_test")
    text_folder(tmp_path, cat="000001 0.2 1 1 2 2\n")
    assert read_detections(tmp_path, split()).score.tolist() == [0.2]


def test_class_name_that_ends_like_another(tmp_path):
    for name, line in (("light", ""), ("traffic_light", "000001 0.5 1 1 2 2\n")):
        (tmp_path / f"x_{name}.txt").write_text(line)
    truth = split(classes=("light", "traffic_light"))
    assert read_detections(tmp_path, truth).label.tolist() == [1]


# What a detector emits: float32 coordinates inside the image.
start = st.one_of(st.just(0.0), st.floats(2.0**-29, 1000, width=32))
extent = st.floats(2.0**-9, 500, width=32)


@st.composite
def float32_boxes(draw):
    x1, y1 = draw(start), draw(start)
    x2, y2 = (float(np.float32(v + draw(extent))) for v in (x1, y1))
    assume(max(x2, y2) > 3)  # a file of boxes within one pixel is one of shares
    return x1, y1, x2, y2


scores = st.floats(allow_nan=False, allow_infinity=False)
rows_of_float32 = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), scores, float32_boxes()), max_size=8
)


@settings(max_examples=100, deadline=None)
@given(rows_of_float32)
def test_round_trips_are_exact(tmp_path_factory, rows):
    folder, detections = tmp_path_factory.mktemp("d"), detections_of(rows)
    write_class_texts(detections, split(), folder)
    assert_same(read_detections(folder, split()), by_class(detections))
    write_coco_json(detections, split(), folder / "d.json")
    assert_same(read_detections(folder / "d.json", split()), detections)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1000), min_size=2, max_size=2))
def test_float64_boxes_move_by_rounding_only(tmp_path_factory, corner):
    folder = tmp_path_factory.mktemp("d")
    detections = detections_of([(0, 0, 0.5, (*corner, corner[0] + 7 / 3, corner[1] + 1e-3))])
    write_class_texts(detections, split(), folder)
    write_coco_json(detections, split(), folder / "d.json")
    for path in (folder, folder / "d.json"):
        np.testing.assert_allclose(read_detections(path, split()).box, detections.box, 0, 2e-13)


def test_nothing_detected(tmp_path):
    nothing = detections_of([])
    assert_same(read_detections(text_folder(tmp_path), split()), nothing)
    assert_same(read_detections(json_file(tmp_path, []), split()), nothing)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.5 1 1 2", "is not 'image_id score xmin ymin xmax ymax'"),
        ("000001 0.5 1 1 2 2 3", "image '000001 0.5' is not in the split"),
        ("000001 0.5 1 1 2 two", "is not 'image_id score xmin ymin xmax ymax'"),
        ("000002 0.5 1 1 2 2", "image '000002' is not in the split"),
        ("3 0.5 1 1 2 2", "image '3' is not in the split"),
        ("000001 nan 1 1 2 2", "must be finite"),
        ("000001 -inf 1 1 2 2", "must be finite"),
        ("000001 0.5 1 1 inf 2", "must be finite"),
        ("000001 0.5 nan 1 2 2", "must be finite"),
    ],
)
def test_bad_line(tmp_path, line, message):
    folder = text_folder(tmp_path, dog=f"000001 0.5 5 5 5 5\n\n{line}\n000001 0.5 1 1 2 2\n")
    with pytest.raises(InputError) as caught:
        read_detections(folder, split())
    assert str(caught.value).startswith(f"{folder / 'comp4_det_test_dog.txt'}, line 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "not a detection"),
        ([], "not a detection"),
        ({"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}, "not a detection"),
        (GOOD | {"bbox": [0, 0, 1]}, "not a detection"),
        (GOOD | {"bbox": [0, 0, 1, 1, 1]}, "not a detection"),
        (GOOD | {"bbox": [0, 0, 1, "one"]}, "not a detection"),
        (GOOD | {"bbox": 1}, "not a detection"),
        (GOOD | {"score": None}, "not a detection"),
        (GOOD | {"score": 10**400}, "not a detection"),
        (GOOD | {"image_id": [1]}, "[1] is neither a number nor a name"),
        (GOOD | {"image_id": True}, "True is neither a number nor a name"),
        (GOOD | {"image_id": 3}, "image 3 is not in the split"),
        (GOOD | {"image_id": "3"}, "image '3' is not in the split"),
        (GOOD | {"category_id": -1}, "class -1 is not one of 1..2"),
        (GOOD | {"category_id": 3}, "class 3 is not one of 1..2"),
        (GOOD | {"category_id": "cow"}, "class 'cow' is not one of 1..2"),
        (GOOD | {"score": math.nan}, "must be finite"),
        (GOOD | {"bbox": [0, 0, math.inf, 1]}, "must be finite"),
        (GOOD | {"bbox": [math.nan, 0, 1, 1]}, "must be finite"),
    ],
)
def test_bad_entry(tmp_path, entry, message):
    file = json_file(tmp_path, [GOOD, entry, GOOD])
    with pytest.raises(InputError) as caught:
        read_detections(file, split())
    assert str(caught.value).startswith(f"{file}, entry 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ("", "is empty"),
        pytest.param("[" * 200_000, "is not JSON", id="deep"),
        ('{"images": []}', "one list of detections"),
        ('{"results": [], "annotations": []}', "one list of detections"),
    ],
)
def test_bad_json(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_detections(json_file(tmp_path, content), split())


def test_missing_path(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json does not exist"):
        read_detections(tmp_path / "absent.json", split())


def test_neither_folder_nor_json(tmp_path):
    (tmp_path / "d.pkl").write_bytes(b"\x80")
    with pytest.raises(InputError, match=r"d\.pkl is no text, and opening a pickle"):
        read_detections(tmp_path / "d.pkl", split())


@pytest.mark.parametrize("name", ["comp4_det_test_cat.txt", "d.json"])
def test_not_text(tmp_path, name):
    text_folder(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xff")
    path = tmp_path if name.endswith("txt") else tmp_path / name
    with pytest.raises(InputError, match=f"{name} is no text in UTF-8"):
        read_detections(path, split())


def test_no_class_file(tmp_path):
    (tmp_path / "comp4_det_test_unicorn.txt").write_text("")
    with pytest.raises(InputError, match=r"unicorn\.txt is named by no class and by no image"):
        read_detections(tmp_path, split())


def test_missing_class_file(tmp_path):
    (text_folder(tmp_path) / "comp4_det_test_cat.txt").unlink()
    with pytest.raises(InputError, match=r"comp4_det_test_cat\.txt is missing"):
        read_detections(tmp_path, split())


def test_unknown_class_file(tmp_path):
    (text_folder(tmp_path) / "comp4_det_test_unicorn.txt").write_text("")
    with pytest.raises(InputError, match=r"unicorn\.txt names no class"):
        read_detections(tmp_path, split())


def test_several_sets_of_class_files(tmp_path):
    text_folder(tmp_path, prefix="comp3_det_test")
    text_folder(tmp_path, prefix="comp4_det_val")
    with pytest.raises(InputError, match=r"several sets .*'comp3_det_test', 'comp4_det_val'"):
        read_detections(tmp_path, split())
