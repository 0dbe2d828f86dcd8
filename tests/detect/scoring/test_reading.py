"""Detections as other programs write them: read where there is one reading, else refused."""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
from scenes import truth_of

from common.errors import InputError
from detect.scoring.detections import Detections
from detect.scoring.formats.class_texts import write_class_texts
from detect.scoring.formats.coco_json import write_coco_json
from detect.scoring.formats.hints import hints
from detect.scoring.formats.names import _stem
from detect.scoring.formats.reading import read_detections
from detect.scoring.matches import match

CLASSES = ("helmet", "vest", "person")
IDS = tuple(f"img_{number:03}" for number in range(2, 10))
SIZE = np.array([120, 90])
BOXES = np.array([[12.0, 10.0, 62.0, 60.0], [29.0, 19.0, 110.0, 85.0]])


def split(image_ids=IDS, classes=CLASSES, **more):
    """Two objects per image, of one class."""
    objects = [
        (image, image % len(classes), box, False)
        for image in range(len(image_ids))
        for box in BOXES.tolist()
    ]
    truth = truth_of(objects, classes, image_ids)
    return replace(truth, sizes=np.tile(SIZE, (len(image_ids), 1)), **more)


def entries(truth, **changes):
    """All objects as COCO results; each change is a function of the usual value."""
    usual = [
        {
            "image_id": truth.image_ids[image],
            "category_id": int(label) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
        }
        for image, label, (x1, y1, x2, y2) in zip(
            truth.image, truth.label, truth.box.tolist(), strict=True
        )
    ]
    return [{**e, **{key: change(e[key]) for key, change in changes.items()}} for e in usual]


def written(tmp_path, content, name="d.json"):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def assert_all_found(path, truth, *told):
    """The detections are the objects, and the notes are these."""
    notes = []
    found = read_detections(path, truth, notes)
    order = np.lexsort((found.box[:, 0], found.image))
    assert found.image[order].tolist() == truth.image.tolist()
    assert found.label[order].tolist() == truth.label.tolist()
    np.testing.assert_allclose(found.box[order], truth.box, atol=1e-9)
    assert len(notes) == len(told)
    for note, part in zip(notes, told, strict=True):
        assert part in note and "\n" not in note


def index_of(name):
    return IDS.index(name)


def share(box):
    x, y, width, height = box
    return [x / 120, y / 90, width / 120, height / 90]


def corners(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ()),
        ({"image_id": "{}.jpg".format}, ("file names",)),
        ({"image_id": "JPEGImages/{}.PNG".format}, ("file names",)),
        ({"image_id": "C:\\data\\{}.jpeg".format}, ("file names",)),
        ({"image_id": index_of}, ("places in the list of the split, counted from 0",)),
        ({"image_id": lambda name: str(index_of(name))}, ("counted from 0",)),
        ({"image_id": lambda name: int(name[-3:])}, ("numbers that end the images' names",)),
        ({"category_id": lambda number: number - 1}, ("class numbers are read as counted from 0",)),
        ({"category_id": str}, ()),
        ({"category_id": float}, ()),
        ({"category_id": lambda number: CLASSES[number - 1]}, ()),
        ({"category_id": lambda number: CLASSES[number - 1].upper()}, ()),
        ({"bbox": share}, ("boxes all lie in [0, 1]",)),
        ({"bbox": corners}, ("boxes are read as [x1, y1, x2, y2]",)),
        ({"bbox": lambda box: corners(share(box))}, ("in [0, 1]", "as [x1, y1, x2, y2]")),
        ({"score": lambda score: 100 * score}, ("scores reach from 90 to 90",)),
    ],
)
def test_one_reading(tmp_path, changes, told):
    truth = split()
    assert_all_found(written(tmp_path, entries(truth, **changes)), truth, *told)


def test_places_from_one(tmp_path):
    truth = split(tuple("abcdefgh"))
    file = written(tmp_path, entries(truth, image_id=lambda name: "abcdefgh".index(name) + 1))
    assert_all_found(file, truth, "places in the list of the split, counted from 1")


def test_numbers_that_may_be_places_or_names_are_refused(tmp_path):
    truth = split(tuple(f"img_{number}" for number in range(8)))
    file = written(tmp_path, entries(truth, image_id=lambda name: int(name[4:])))
    with pytest.raises(InputError, match="may be a place in the list of images or the number"):
        read_detections(file, truth)


def test_ids_of_another_split_are_not_places(tmp_path):
    truth = split(("000001", "000002", "000004", "000005"))
    given = entries(truth)
    given[-1]["image_id"] = 3  # the others are right: one image too many was searched
    with pytest.raises(InputError, match="entry 8: image 3 is not in the split, whose ids look"):
        read_detections(written(tmp_path, given), truth)


@pytest.mark.parametrize("ids", [(3, 7, 90), (0, 1, 2), (1, 3, 2)])
def test_category_ids_are_those_of_the_data(tmp_path, ids):
    truth = split(category_ids=ids)
    file = written(tmp_path, entries(truth, category_id=lambda number: ids[number - 1]))
    assert_all_found(file, truth)
    write_coco_json(read_detections(file, truth), truth, tmp_path / "again.json")
    assert_all_found(tmp_path / "again.json", truth)


def test_contiguous_numbers_beside_category_ids_with_gaps(tmp_path):
    truth = split(category_ids=(3, 7, 90))
    assert_all_found(written(tmp_path, entries(truth)), truth, "counted from 1")


def test_file_names_beside_numeric_ids(tmp_path):
    names = tuple(f"val/photo {letter}" for letter in "abcdefgh")
    truth = split(tuple(map(str, range(100, 108))), file_names=names)
    assert_all_found(written(tmp_path, entries(truth, image_id=int)), truth)
    by_name = entries(truth, image_id=lambda number: f"{names[int(number) - 100]}.jpg")
    assert_all_found(written(tmp_path, by_name), truth, "file names")
    bare = [{**entry, "file_name": entry["image_id"].removeprefix("val/")} for entry in by_name]
    for entry in bare:
        del entry["image_id"]
    assert_all_found(written(tmp_path, bare), truth, "file names")


def test_names_beside_numbers_of_another_counting(tmp_path):
    # COCO data whose ids are no numbers of their file names, detected on by `detect predict`.
    names = tuple(f"{number:06}" for number in range(104, 112))
    truth = split(tuple(map(str, range(100, 108))), file_names=names, category_ids=(2, 3, 1))
    given = entries(truth)
    for entry in given:
        place, label = int(entry["image_id"]) - 100, entry["category_id"] - 1
        entry["file_name"], entry["category_name"] = f"{names[place]}.jpg", CLASSES[label]
        entry["image_id"] = int(names[place])  # 104 to 107 are others' ids
    assert_all_found(written(tmp_path, given), truth)
    given[5]["file_name"] = "000100.jpg"  # of no image of the split, though 100 is an id
    with pytest.raises(InputError, match=r"entry 6: image '000100\.jpg' is not in the split"):
        read_detections(written(tmp_path, given), truth)
    given[5]["file_name"] = "val/000106.jpg"
    given[5]["category_name"] = "glove"
    with pytest.raises(InputError, match="entry 6: class 'glove' is not"):
        read_detections(written(tmp_path, given), truth)


def test_names_that_say_nothing_leave_the_numbers(tmp_path):
    truth = split(tuple(map(str, range(100, 108))))
    given = [{**e, "image_id": int(e["image_id"])} for e in entries(truth)]
    for entry in given:
        entry["file_name"], entry["category_name"] = f"frame-{entry['image_id'] - 7}.jpg", None
    assert_all_found(written(tmp_path, given), truth)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path, encoding):
    truth = split()
    (tmp_path / "d.json").write_bytes(json.dumps(entries(truth)).encode(encoding))
    assert_all_found(tmp_path / "d.json", truth)


def test_packed_wrapped_and_in_a_folder(tmp_path):
    truth, given = split(), entries(split())
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(given).encode()))
    assert_all_found(tmp_path / "d.json.gz", truth)
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(json.dumps(given).encode())[:-20])
    with pytest.raises(InputError, match=r"cut\.json\.gz cannot be read"):
        read_detections(tmp_path / "cut.json.gz", truth)
    wrapped = {"images": [], "categories": [], "annotations": given}
    assert_all_found(written(tmp_path, wrapped), truth)
    folder = tmp_path / "inference"
    folder.mkdir()
    written(folder, given, "coco_instances_results.json")
    written(folder, {}, "instances_predictions.json")
    assert_all_found(folder, truth)


def test_zipped_results(tmp_path):
    """As COCO's server takes them; macOS packs notes of its own along."""
    truth, given = split(), json.dumps(entries(split()))

    def packed(**contents):
        with zipfile.ZipFile(tmp_path / "r.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in contents.items():
                archive.writestr(name, text)
        return tmp_path / "r.zip"

    results = {"results/detections_val_x_results.json": given}
    assert_all_found(packed(**results), truth)
    assert_all_found(packed(**results, **{"__MACOSX/results/._x.json": "?", "readme": ""}), truth)
    for contents, told in (
        ({**results, "b.json": "[]"}, "holds 2 .json files, not one: unpack it"),
        ({"a.txt": ""}, "holds 0 .json files, not one: unpack it"),
        ({"a.json": " " * 20_000_000}, "unpacks to over 10,000,000 bytes"),
    ):
        with pytest.raises(InputError, match=told):
            read_detections(packed(**contents), truth)
    whole = packed(**results).read_bytes()
    locked = whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    named = whole.replace(b"results/", b"\xff\xffsults/").replace(b"\x14\0\0\0", b"\x14\0\0\x08")
    for content in (whole[:-30], whole.replace(whole[60:80], bytes(20), 1), locked, named):
        assert content != whole
        (tmp_path / "r.zip").write_bytes(content)
        with pytest.raises(InputError, match=r"r\.zip cannot be read .*: write or copy it again"):
            read_detections(tmp_path / "r.zip", truth)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"name": "car", "class": 0, "box": {}}, "it has no image_id, but name, class, box"),
        ({"image_id": 3, "category_id": 1, "score": 1, "segmentation": {}}, "it has no bbox, but"),
        ({"file_name": "3", "category_name": "car", "score": 1}, "it has no category_id, but file"),
    ],
)
def test_what_an_entry_lacks(tmp_path, entry, told):
    (tmp_path / "x.json").write_text(json.dumps([entry]))
    with pytest.raises(InputError, match=f"x.json, entry 1: not a detection .*; {told}.*again"):
        read_detections(tmp_path / "x.json", split(("3",), ("car",)))


def test_which_of_several_files(tmp_path):
    for name in ("a.bbox.json", "a.segm.json"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "3.txt").write_text("0 0.9 1 2 30 40\n")
    with pytest.raises(InputError, match=r"2 .json files \(a.bbox.json, a.segm.json\): give one"):
        read_detections(tmp_path, split(("3",), ("car",)))
    with pytest.raises(InputError, match="3.txt is one of several texts: give the folder that it"):
        read_detections(tmp_path / "texts" / "3.txt", split(("3",), ("car",)))


def test_annotations_for_detections_are_refused(tmp_path):
    given = entries(split())
    for entry in given:
        del entry["score"]
    with pytest.raises(InputError, match=r"entry 1: .*annotations have no score"):
        read_detections(written(tmp_path, given), split())


@pytest.mark.parametrize("name", ["r.pkl", "r.pickle", "r.pth", "r.npz"])
def test_pickles_are_not_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch gone'\ntR.")
    with pytest.raises(InputError, match="write a COCO .json file"):
        read_detections(tmp_path / name, split())


# ---- VOC text -----------------------------------------------------------------------------------


def class_texts(folder, form="{} {} {} {} {} {}", prefix="comp4_det_test_", truth=None):
    truth = truth or split()
    folder.mkdir()
    for label, name in enumerate(truth.classes):
        rows = np.flatnonzero(truth.label == label)
        lines = [
            form.format(truth.image_ids[truth.image[row]], 0.9, x1 + 1, y1 + 1, x2, y2)
            for row in rows
            for x1, y1, x2, y2 in [truth.box[row].tolist()]
        ]
        (folder / f"{prefix}{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("{}\t{}\t{} {} {} {}  ", ()),
        ("{},{},{},{},{},{}", ()),
        ("{}, {}, {}, {}, {}, {}", ()),
        ("{}.jpg {} {} {} {} {}", ("file names",)),
        ("images/{}.JPG {} {} {} {} {}", ("file names",)),
    ],
)
def test_lines_of_class_texts(tmp_path, form, told):
    assert_all_found(class_texts(tmp_path / "d", form), split(), *told)


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["1 0.9 1 2 3"] * 5, 1),  # 25 numbers, but not five a line
        (["3 7\t0.9 1 2 30 40", "5 0.9 1 2 30 "], 2),  # six words a line, on the whole
        (["3 0.9 1 2 30 40", "3 0.9 1 2  30"], 2),
        (["3 0.9 1 2 30 40", "3 0.9 1 2 30 4O"], 2),
        (["3 0.9 1 2 30 40", "3 0.9 1 2 30 4_0"], 2),
        (["3 0.9 1 2 30 40", "", "3 0.9 1 2 30 0x28"], 3),
    ],
)
def test_lines_that_are_no_detections(tmp_path, lines, number):
    truth = split(("3", "5", "3 7"), ("car",))
    (tmp_path / "car.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"car.txt, line {number}: ") as caught:
        read_detections(tmp_path, truth)
    assert repr(lines[number - 1].strip()) in str(caught.value)


def test_odd_blanks_of_ids_stay(tmp_path):
    truth = split(("at 3.45\u202fPM", "a\u3000b"), ("car",))
    (tmp_path / "car.txt").write_text("a\u3000b 0.9 1 2 30 40\nat 3.45\u202fPM 0.8 1 2 30 40\n")
    assert read_detections(tmp_path, truth).image.tolist() == [1, 0]


def test_ids_of_odd_lines(tmp_path):
    truth = split(("3", "3 7", "#"), ("car",))
    (tmp_path / "car.txt").write_text("3 7\t0.9 1 2 30 40\n# 0.8 1 2 30 40\n3 0.7 1 2 30 40")
    found = read_detections(tmp_path, truth)
    assert found.image.tolist() == [1, 2, 0]
    assert found.score.tolist() == [0.9, 0.8, 0.7]
    (tmp_path / "car.txt").write_text("# 0.8 1 2 30 40\n3 0.7 1 2 30 40")
    found = read_detections(tmp_path, truth)
    assert (found.image.tolist(), found.score.tolist()) == ([2, 0], [0.8, 0.7])


def test_numbers_as_python_writes_and_reads_them(tmp_path):
    values = [0.1, 1 / 3, 2.5e-3, 1e-300, 123456.789012345, 7.0, 2**53 + 1.0]
    lines = [f"3 {v!r} {v!r} {v:.3f} {v:e} {int(v)}" for v in values]
    (tmp_path / "car.txt").write_text("\n\n".join(lines))
    found = read_detections(tmp_path, split(("3",), ("car",)))
    read = np.array([[float(word) for word in line.split()[1:]] for line in lines])
    assert found.score.tolist() == read[:, 0].tolist() == values
    assert found.box.tolist() == (read[:, 1:] - [1, 1, 0, 0]).tolist()


@pytest.mark.parametrize("prefix", ["", "comp3_det_test_", "det_test_", "results "])
def test_prefixes_of_class_texts(tmp_path, prefix):
    folder = class_texts(tmp_path / "d", prefix=prefix)
    if prefix.endswith(" "):
        with pytest.raises(InputError, match="named by no class and by no image"):
            read_detections(folder, split())
    else:
        assert_all_found(folder, split())


def test_class_texts_in_utf_16(tmp_path):
    folder = class_texts(tmp_path / "d")
    for file in folder.iterdir():
        file.write_text(file.read_text(), encoding="utf-16")
    assert_all_found(folder, split())


def test_class_texts_of_shares(tmp_path):
    truth = split()
    folder = tmp_path / "d"
    write_class_texts(
        Detections(truth.image, truth.label, np.full(len(truth.label), 0.9), truth.box / 120),
        truth,
        folder,
    )
    scaled = replace(truth, sizes=np.full_like(truth.sizes, 120))
    for file in folder.iterdir():  # shares are counted from 0
        lines = [line.split() for line in file.read_text().splitlines()]
        for line in lines:
            line[2:4] = [str(float(value) - 1) for value in line[2:4]]
        file.write_text("\n".join(map(" ".join, lines)))
    assert_all_found(folder, scaled, "in [0, 1]")


NAMES = ["car/truck", "../up", "a b", "100%", "<b>", 'say "hi"', "x|y", "tab\there", ".hidden", "é"]


def test_names_that_are_no_file_names(tmp_path):
    truth = split(("a b.c", "a  b", "x,y", "2.5"), NAMES)
    found = Detections(truth.image, truth.label, np.full(len(truth.label), 0.9), truth.box)
    write_class_texts(found, truth, tmp_path / "d" / "voc")
    assert sorted(path.name for path in (tmp_path / "d").rglob("*") if path.is_file()) == sorted(
        path.name for path in (tmp_path / "d" / "voc").iterdir()
    )
    assert len(list((tmp_path / "d" / "voc").iterdir())) == len(NAMES)
    assert list(tmp_path.iterdir()) == [tmp_path / "d"]
    one_blank = replace(truth, image_ids=("a b.c", "ab", "x,y", "2.5"))
    write_class_texts(found, one_blank, tmp_path / "d" / "voc")
    assert_all_found(tmp_path / "d" / "voc", one_blank)


# ---- one text an image --------------------------------------------------------------------------


def image_texts(folder, line, truth=None):
    truth = truth or split()
    folder.mkdir(parents=True)
    for image, name in enumerate(truth.image_ids):
        rows = np.flatnonzero(truth.image == image)
        lines = [line(int(truth.label[row]), *truth.box[row].tolist()) for row in rows]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


def yolo(label, x1, y1, x2, y2):
    middle = (x1 + x2) / 240, (y1 + y2) / 180, (x2 - x1) / 120, (y2 - y1) / 90
    return " ".join(map(repr, (label, *middle, 0.9)))


def score_then_yolo(label, x1, y1, x2, y2):
    words = yolo(label, x1, y1, x2, y2).split()
    return " ".join([words[0], "0.2", *words[1:5]])


def pixels(label, x1, y1, x2, y2):
    return f"{CLASSES[label]} 0.9 {x1 + 1} {y1 + 1} {x2} {y2}"


def pixels_then_score(label, x1, y1, x2, y2):
    return f"{label} {x1 + 1} {y1 + 1} {x2} {y2} 0.9"


def sides(label, x1, y1, x2, y2):
    return f"{label} 0.9 {x1} {y1} {x2 - x1} {y2 - y1}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (yolo, ("class, x, y, width, height, score", "in [0, 1]")),
        (pixels, ("class, score, box: the box as xmin, ymin, xmax, ymax from 1",)),
        (pixels_then_score, ("class, box, score: the box as xmin, ymin, xmax, ymax from 1",)),
        (score_then_yolo, ("class, score, x, y, width, height", "in [0, 1]")),
    ],
)
def test_six_columns(tmp_path, line, told):
    assert_all_found(image_texts(tmp_path / "labels", line), split(), *told)
    (tmp_path / "labels" / "classes.txt").write_text("\n".join(CLASSES))
    (tmp_path / "labels" / f"{IDS[0]}.txt").write_text("")
    found = read_detections(tmp_path, split())  # the folder above, as ultralytics leaves it
    assert len(found.score) == 2 * len(IDS) - 2


def test_corner_and_size_in_pixels(tmp_path):
    truth = replace(split(), box=np.tile([[60.0, 40, 80, 70], [70.0, 50, 90, 60]], (8, 1)))
    folder = image_texts(tmp_path / "d", sides, truth)
    assert_all_found(folder, truth, "class, score, box: the box as x, y, width, height")
    for file in folder.iterdir():
        file.write_text(f"{file.read_text()}\n1 0.9 100 80 30 20")
    with pytest.raises(InputError, match="neither xmin, ymin, xmax, ymax nor x, y, width, height"):
        read_detections(folder, truth)


def test_a_class_from_one(tmp_path):
    folder = image_texts(tmp_path / "d", lambda label, *box: yolo(label + 1, *box))
    told = ("class numbers are read as counted from 1", "class, x, y", "in [0, 1]")
    assert_all_found(folder, split(), *told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "line 2 has five columns, a box without a score.*save_conf"),
        ("0 0.5 0.5", "line 2 is not six columns"),
        ("0 0.5 0.5 0.2 0.2 0.9_9", "line 2 is not six columns"),
        ("0 0.5 0.5 0.2 0.2 high", "line 2 is not six columns"),
        ("0 0.5 0.5 0.2 nan 0.9", "line 2: the numbers must be finite"),
        ("7 0.5 0.5 0.2 0.2 0.9", "line 2: class '7' is not one of 0..2"),
        ("boot 0.5 0.5 0.2 0.2 0.9", "line 2: class 'boot' is not one of 0..2"),
    ],
)
def test_bad_line_of_an_image(tmp_path, text, message):
    folder = image_texts(tmp_path / "d", yolo)
    (folder / f"{IDS[3]}.txt").write_text(f"\n{text}\n")
    with pytest.raises(InputError, match=message) as caught:
        read_detections(folder, split())
    assert f"{IDS[3]}.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_of_no_image(tmp_path):
    folder = image_texts(tmp_path / "d", yolo)
    (folder / "other.txt").write_text("")
    with pytest.raises(InputError, match=r"other\.txt is named by no class and by no image"):
        read_detections(folder, split())


# ---- remarks and hints --------------------------------------------------------------------------


def test_boxes_without_area_are_counted(tmp_path):
    given = entries(split())
    flat = [{**given[0], "bbox": [5, 5, 0, 3]}, {**given[0], "bbox": [5, 5, 4, -3]}]
    notes = []
    found = read_detections(written(tmp_path, [*given, *flat]), split(), notes)
    assert len(found.score) == len(given) + 2
    assert notes == [
        f"boxes without area: 2 of {len(given) + 2}, the first in image 'img_002'; each counts "
        "as a false detection"
    ]


def test_boxes_of_resized_images_are_told(tmp_path):
    notes = []
    given = entries(split(), bbox=lambda box: [10 * value for value in box])
    read_detections(written(tmp_path, given), split(), notes)
    assert len(notes) == 1 and "not of a resized one" in notes[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"label": lambda f: f.label[f.label > 0] - 1}, "class numbers counted from 0"),
        ({"box": lambda f: f.box * np.tile(640 / SIZE, 2)}, "images of 640 x 640"),
        ({"image": lambda f: (f.image + 1) % 8}, "places in the list of images were one off"),
    ],
)
def test_hints(changes, told):
    truth = split()
    found = Detections(truth.image, truth.label, np.full(len(truth.label), 0.9), truth.box)
    if "label" in changes:
        found = found.select(found.label > 0)
    changed = replace(found, **{name: change(found) for name, change in changes.items()})
    given = hints(truth, changed, match(truth, changed))
    assert len(given) == (told is not None)
    assert told is None or (told in given[0] and given[0].startswith("0 of 16 objects are found"))


def test_hint_of_exchanged_axes():
    truth = replace(split(), box=np.tile([0.0, 0.0, 80.0, 20.0], (16, 1)))
    found = Detections(truth.image, truth.label, np.full(16, 0.9), truth.box[:, [1, 0, 3, 2]])
    (told,) = hints(truth, found, match(truth, found))
    assert told.endswith("8 would be found if x and y were exchanged: write x first")


def test_a_detector_that_finds_nothing_is_told_of(tmp_path):
    notes = []
    read_detections(written(tmp_path, []), split(), notes)
    assert notes == []  # once is enough
    truth = split()
    none = np.zeros(0, np.int64)
    found = Detections(none, none, np.zeros(0), np.zeros((0, 4)))
    assert hints(truth, found, match(truth, found)) == [
        "there are no detections: no object is found"
    ]


def test_no_hint_for_a_detector_that_is_just_bad():
    truth = split()
    rng = np.random.default_rng(0)
    box = np.hstack([rng.uniform(0, 9, (16, 2)), rng.uniform(10, 14, (16, 2))])
    found = Detections(truth.image, truth.label, np.full(16, 0.9), box)
    assert hints(truth, found, match(truth, found)) == []


@pytest.mark.parametrize("end", ["", ".jpg", ".JPEG", ".tar.gz", ".xml.png", "."])
@pytest.mark.parametrize(
    "name", ["a", "", ".", "..", "a.b", "d/a", "d\\a", "/a", "d/", "./a", " a ", "d/..", "Å b"]
)
def test_the_stem_of_a_name_is_that_of_a_path(name: str, end: str) -> None:
    base = PurePosixPath(f"{name}{end}".strip().replace("\\", "/")).name
    known = (".jpg", ".jpeg", ".png", ".xml")
    suffix = next((one for one in known if base.lower().endswith(one)), "")
    assert _stem(f"{name}{end}") == base[: len(base) - len(suffix)]
