"""The VOC reader: coordinates by hand, hostile files, and errors that say what to mend."""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from detect.data.checks import outside
from detect.data.opening import open_data
from detect.data.options import DataOptions
from detect.data.voc import VOC_CLASSES, read_classes
from detect.data.voc_xml import read_annotation

LABEL_OF = {name: label for label, name in enumerate(VOC_CLASSES)}
SIZE = "<size><width>500</width><height>375</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>48</xmin><ymin>240</ymin><xmax>195</xmax><ymax>371</ymax></bndbox>"


def thing(name="dog", box=BOX, rest="<difficult>0</difficult>"):
    return f"<object><name>{name}</name>{rest}{box}</object>"


def bndbox(xmin, ymin, xmax, ymax):
    return (
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    )


def annotation(*objects, size=SIZE):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "000001.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotation(path, "000001", LABEL_OF)

    return read_text


@pytest.fixture
def devkit(tmp_path):
    """Two years: 2007 with trainval and test, 2012 with train; images hold no pixels."""
    root = tmp_path / "VOCdevkit"
    sets = {"2007": {"trainval": ["000001", "000002"], "test": ["000003"]}, "2012": {}}
    sets["2012"]["train"] = ["2008_000008"]
    for year, lists in sets.items():
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / f"VOC{year}" / folder).mkdir(parents=True)
        for name, ids in lists.items():
            (root / f"VOC{year}/ImageSets/Main/{name}.txt").write_text("\n".join(ids) + "\n")
            for image_id in ids:
                (root / f"VOC{year}/JPEGImages/{image_id}.jpg").touch()
                xml = annotation(thing(), thing("person"))
                (root / f"VOC{year}/Annotations/{image_id}.xml").write_text(xml)
    return root


# ---- one file


def test_a_file_in_full(read):
    text = """<?xml version="1.0"?>
    <annotation>
      <folder>VOC2007</folder><filename>../../elsewhere.jpg</filename>
      <size><width>353</width><height>500</height><depth>3</depth></size>
      <segmented>0</segmented>
      <object>
        <name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
        <bndbox><xmin>48</xmin><ymin>240</ymin><xmax>195</xmax><ymax>371</ymax></bndbox>
      </object>
      <object>
        <name> person </name><pose>Left</pose><truncated>1</truncated><difficult>1</difficult>
        <part>
          <name>head</name>
          <bndbox><xmin>60</xmin><ymin>12</ymin><xmax>90</xmax><ymax>50</ymax></bndbox>
        </part>
        <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>353</xmax><ymax>500</ymax></bndbox>
      </object>
    </annotation>"""
    found = read(text)
    assert (found.image_id, found.width, found.height) == ("000001", 353, 500)
    assert found.boxes.dtype == np.float64
    assert found.boxes.tolist() == [[47, 239, 195, 371], [0, 0, 353, 500]]
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == [11, 14]
    assert found.difficult.dtype == np.bool_
    assert found.difficult.tolist() == [False, True]


def test_a_part_before_the_box_and_without_own_box(read):
    part = f"<part><name>head</name>{bndbox(2, 2, 3, 3)}</part>"
    found = read(annotation(thing("person", part + bndbox(11, 21, 30, 40))))
    assert found.boxes.tolist() == [[10, 20, 30, 40]]
    with pytest.raises(InputError, match=r"object 1 \(person\).*bndbox"):
        read(annotation(thing("person", part)))


def test_an_object_inside_another_tag_is_none(read):
    assert len(read(annotation(thing(), f"<source>{thing()}</source>")).boxes) == 1


def test_decimals_and_a_missing_difficult(read):
    found = read(annotation(thing(box=bndbox("45.70", "10.5", "90.25", "11"), rest="")))
    assert np.allclose(found.boxes, [[44.7, 9.5, 90.25, 11]])
    assert found.difficult.tolist() == [False]


def test_no_objects(read):
    found = read(annotation())
    assert (found.boxes.shape, found.labels.shape, found.difficult.shape) == ((0, 4), (0,), (0,))
    assert (found.boxes.dtype, found.labels.dtype) == (np.float64, np.int64)


def test_one_pixel_is_a_box_and_one_pixel_beyond_is_cut_in_training_alone(read):
    found = read(annotation(thing(box=bndbox(7, 7, 7, 7)), thing(box=bndbox(0, 0, 501, 376))))
    assert found.boxes.tolist() == [[6, 6, 7, 7], [-1, -1, 501, 376]]
    boxes, labels = found.usable(difficult=False)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[6, 6, 7, 7], [0, 0, 500, 375]]
    assert labels.tolist() == [11, 11]


def test_boxes_beyond_the_image_are_as_annotated_and_cut_in_training_alone(read):
    boxes = (-3, 10, 502, 30), (10, -1, 20, 400), (501, 10, 510, 30), (0, 0, 0, 0)
    found = read(annotation(*(thing(box=bndbox(*box)) for box in boxes)))
    assert found.boxes.tolist() == [
        [-4, 9, 502, 30],
        [9, -2, 20, 400],
        [500, 9, 510, 30],
        [-1, -1, 0, 0],
    ]
    assert found.usable(difficult=False)[0].tolist() == [[0, 9, 500, 30], [9, 0, 20, 375]]
    assert outside(found) == {0: 4, 1: 25, 2: 10}


def test_decimals_keep_every_digit(read):
    found = read(annotation(thing(box=bndbox("10.1", "20.2", "110.3", "70.7"))))
    assert found.boxes.tolist() == [[10.1 - 1, 20.2 - 1, 110.3, 70.7]]


@given(
    corners=st.tuples(*[st.integers(1, 500)] * 2, *[st.integers(1, 375)] * 2),
    difficult=st.booleans(),
    name=st.sampled_from(VOC_CLASSES),
)
@settings(deadline=None, max_examples=60)
def test_width_and_height_count_inclusive_pixels(tmp_path_factory, corners, difficult, name):
    (xmin, xmax), (ymin, ymax) = sorted(corners[:2]), sorted(corners[2:])
    path = tmp_path_factory.getbasetemp() / "any.xml"
    rest = f"<difficult>{int(difficult)}</difficult>"
    path.write_text(annotation(thing(name, bndbox(xmin, ymin, xmax, ymax), rest)))
    found = read_annotation(path, "any", LABEL_OF)
    x1, y1, x2, y2 = found.boxes[0].tolist()
    assert (x2 - x1, y2 - y1) == (xmax - xmin + 1, ymax - ymin + 1)
    assert (x2, y2) == (xmax, ymax)
    assert found.difficult.tolist() == [difficult]
    assert VOC_CLASSES[found.labels[0]] == name


BAD_OBJECTS = [
    ("unknown class; the classes are aeroplane, ", thing("unicorn")),
    ("tvmonitor: correct either", thing("unicorn")),
    ("unknown class; 'dog' is one, not 'Dog': write both in one way", thing("Dog")),
    ("<Difficult> is not <difficult>: rename", thing(rest="<Difficult>1</Difficult>")),
    ("<Xmin> is not <xmin>: rename", thing(box=BOX.replace("xmin", "Xmin"))),
    ("has two <bndbox>: give each box an <object>", thing(rest=BOX)),
    ("has two <difficult>: remove one", thing(rest="<difficult>0</difficult>" * 2)),
    ("<name> is missing", "<object>" + BOX + "</object>"),
    ("<bndbox> is missing", thing(box="")),
    ("<xmax> is missing", thing(box=BOX.replace("xmax>", "xmux>"))),
    ("<xmin> is '', not a number", thing(box=bndbox("", 1, 2, 3))),
    ("<xmin> is 'nan', not a number", thing(box=bndbox("nan", 1, 2, 3))),
    ("<xmax> is 'inf', not a number", thing(box=bndbox(1, 1, "inf", 3))),
    ("<xmin> is 'left', not a number", thing(box=bndbox("left", 1, 2, 3))),
    ("<ymax> is '6_0', not a number", thing(box=bndbox(1, 1, 2, "6_0"))),
    ("ymax 30 is inverted", thing(box=bndbox(20, 10, 19, 30))),
    ("ymax 30 is inverted", thing(box=bndbox(10, 31, 20, 30))),
    ("<difficult> is 'maybe'", thing(rest="<difficult>maybe</difficult>")),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_OBJECTS)
def test_a_bad_object_is_refused_by_file_and_number(read, reason, bad):
    with pytest.raises(InputError, match=r"000001\.xml, object 2\b") as caught:
        read(annotation(thing(), bad))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


HOSTILE = {
    "too large": annotation() + " " * 1_000_000,
    "nul": annotation(thing()) + "\0",
    "utf-16": ("<!DOCTYPE a>" + annotation(thing())).encode("utf-16"),
    "billion laughs": '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;">]>' + annotation(),
    "small blow-up": f'<!DOCTYPE a [<!ENTITY b "{"x" * 5000}">]>{annotation("&b;" * 9)}',
    "outer declarations": '<!DOCTYPE annotation SYSTEM "other.dtd">' + annotation(),
    "outer file": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>' + annotation(),
    "quadratic blow-up": f'<!DOCTYPE a [<!ENTITY b "{"x" * 50_000}">]>' + annotation("&b;" * 9999),
    "parameter entity": '<!DOCTYPE a [<!ENTITY % b SYSTEM "file:///etc/hostname"> %b;]>',
    "hidden by its encoding": b'<?xml version="1.0" encoding="cp037"?>'
    + f"<!DOCTYPE a [<!ENTITY b 'x'>]>{annotation(thing())}".encode("cp037"),
    "hidden by utf-7": b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a+AD4-',
    "unknown entity": annotation("&b;"),
    "cut off": annotation(thing())[:-20],
    "empty": "",
    "not XML": "000001 14 48 240 195 371",
    "odd encoding": '<?xml version="1.0" encoding="no-such"?>' + annotation(),
    "another root": "<svg></svg>",
    "no size": annotation(size=""),
    "no width": annotation(size=SIZE.replace("width>", "breadth>")),
    "zero size": annotation(size=SIZE.replace("500", "0")),
    "half a pixel": annotation(size=SIZE.replace("500", "500.5")),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_or_broken_file_is_refused_by_name(read, text):
    with pytest.raises(InputError, match=r"000001\.xml") as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", ["<!DOCTYPE", "<!ENTITY"])
def test_declarations_are_refused_unparsed(read, token):
    with pytest.raises(InputError, match=f"holds '{token}'"):
        read(f"{token} " + annotation())


@pytest.mark.parametrize("place", ["name", "difficult", "xmin"])
def test_a_message_shows_a_hostile_text_short_and_in_one_line(read, place):
    text = "\n\x7f&#x9b;31m" + "x" * 900_000
    item = re.sub(rf"<{place}>[^<]*<", lambda _: f"<{place}>y{text}<", thing())
    with pytest.raises(InputError, match=r"object 1") as caught:
        read(annotation(item))
    assert len(str(caught.value)) < 800
    assert str(caught.value).isprintable()


def test_pipes_devices_and_loops_are_refused_unread(tmp_path):
    pipe, device, loop = (tmp_path / name for name in ("pipe.xml", "device.xml", "loop.xml"))
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    for path in (pipe, device, loop):
        with pytest.raises(InputError, match=path.name):
            read_annotation(path, "any", LABEL_OF)


@pytest.mark.parametrize(
    "hostile",
    ["../000002", "/etc/passwd", "a/../b", "..", "000001\0", "x" * 5000 + "/", "C:a", "a\x1b[31m"],
)
def test_an_id_that_is_no_plain_name_opens_nothing(devkit, hostile, monkeypatch):
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").write_text(f"000001\n{hostile}\n")
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a: opened.append(path.name) or real(path, *a))
    with pytest.raises(InputError, match="line 2: .* is no image id") as caught:
        open_data(devkit).read("2007:trainval")
    assert set(opened) == {"train.txt", "trainval.txt", "test.txt"}  # the lists alone
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_list_without_end_is_refused(devkit):
    path = devkit / "VOC2007/ImageSets/Main/trainval.txt"
    os.truncate(path, 10**12)  # sparse
    with pytest.raises(InputError, match=r"trainval\.txt is over 100000000 bytes"):
        open_data(devkit).read("2007:trainval")


def test_deep_nesting_is_no_crash(read):
    deep = "<a>" * 100_000 + "</a>" * 100_000
    assert len(read(annotation(thing(), deep)).boxes) == 1


# ---- a devkit


def test_the_twenty_classes_and_the_file_that_replaces_them(devkit):
    assert len(set(VOC_CLASSES)) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert read_classes(devkit) == VOC_CLASSES
    (devkit / "classes.txt").write_text("ring\r\ntraffic light\n\ndisc\n")
    assert read_classes(devkit) == ("ring", "traffic light", "disc")
    assert read_classes(devkit.parent) == ("ring", "traffic light", "disc")


@pytest.mark.parametrize("text", ["", "\n", "a\na\n", "a\x1b[31m\n", "a\x00\n", "\xe9\xff"])
def test_bad_class_files(devkit, text):
    (devkit / "classes.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt"):
        read_classes(devkit)


def test_sets_are_joined_in_order(devkit):
    images = open_data(devkit).read("2012:train,2007:trainval")
    assert [image.annotation.image_id for image in images] == ["2008_000008", "000001", "000002"]
    assert images[0].path == devkit / "VOC2012/JPEGImages/2008_000008.jpg"
    assert images[2].path == devkit / "VOC2007/JPEGImages/000002.jpg"
    assert images[1].annotation.labels.tolist() == [11, 14]


def test_the_list_gives_the_order(devkit):
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").write_text("000002\n000001\n")
    images = open_data(devkit).read("2007:trainval")
    assert [image.annotation.image_id for image in images] == ["000002", "000001"]


def test_labels_follow_the_given_classes(devkit):
    images = open_data(devkit, DataOptions(classes="person,dog")).read("2007:test")
    assert images[0].annotation.labels.tolist() == [1, 0]


def test_the_folder_around_the_devkit_will_do(devkit):
    path = open_data(devkit.parent).read("2007:test")[0].path
    assert path == devkit / "VOC2007/JPEGImages/000003.jpg"


@pytest.mark.parametrize(
    "split", ["", "2007", "2007:", "07:test", "2007:a/b", "2007:test,", "test"]
)
def test_a_malformed_split(devkit, split):
    with pytest.raises(InputError, match="YEAR:SET"):
        open_data(devkit).read(split)


@pytest.mark.parametrize("split", ["2007:val", "2012:test", "2010:train"])
def test_an_unknown_set_lists_those_there_are(devkit, split):
    (devkit / "VOC2007/ImageSets/Main/aeroplane_test.txt").write_text("000003 -1\n")
    with pytest.raises(InputError) as caught:
        open_data(devkit).read(split)
    assert str(caught.value) == (
        f"{devkit} has no set {split}: choose from 2007:test, 2007:trainval, 2012:train"
    )


def test_a_folder_that_is_no_devkit_is_shown_beside_what_is_needed(tmp_path):
    (tmp_path / "VOC2007").mkdir()
    (tmp_path / "VOC2007" / "a.jpg").touch()
    with pytest.raises(InputError) as caught:
        open_data(tmp_path).read("2007:test")
    assert str(caught.value).splitlines()[1] == (
        "  expected: VOC2007/Annotations/; VOC2007/ImageSets/Main/test.txt; VOC2007/JPEGImages/. "
        f"Found in {tmp_path}: VOC2007/ (a.jpg)"
    )


@pytest.mark.parametrize("folder", ["Annotations", "JPEGImages"])
def test_a_year_without_one_of_its_folders(devkit, folder):
    (devkit / "VOC2007" / folder).rename(devkit / "away")
    told = "has none of the annotations" if folder == "Annotations" else "missing in .*, the first"
    with pytest.raises(InputError, match=f"{folder}.*{told}|{told}"):
        open_data(devkit).read("2007:test")


def test_a_year_without_lists_is_shown_beside_what_is_needed(devkit):
    (devkit / "VOC2007/ImageSets/Main").rename(devkit / "away")
    with pytest.raises(InputError, match="expected: "):
        open_data(devkit).read("2007:test")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lists no images"),
        ("000001\n\n000002\n", "line 2 is blank"),
        ("000001\n000001\n", "000001 occurs twice"),
        ("000001\n../000002\n", "line 2.*'../000002'"),
        ("000001  1\n", "line 1.*'000001  1'"),
    ],
)
def test_a_bad_list(devkit, text, reason):
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        open_data(devkit).read("2007:trainval")
    assert "trainval.txt" in str(caught.value)


def test_the_same_set_twice(devkit):
    with pytest.raises(InputError, match="000003 occurs twice"):
        open_data(devkit).read("2007:test,2007:test")


@pytest.mark.parametrize("name", ["JPEGImages/000002.jpg", "Annotations/000002.xml"])
def test_a_missing_file_is_counted_and_named(devkit, name):
    (devkit / "VOC2007" / name).unlink()
    with pytest.raises(InputError, match=rf"^1 of the 2 .*{name.split('/')[1]}"):
        open_data(devkit).read("2007:trainval")


def test_the_reader_agrees_with_a_plain_walk_over_the_tree(devkit):
    for image in open_data(devkit).read("2007:trainval,2007:test"):
        xml = image.path.parents[1] / "Annotations" / f"{image.path.stem}.xml"
        corners = [[int(c.text) for c in box] for box in ET.parse(xml).iter("bndbox")]
        assert image.annotation.boxes.tolist() == [[a - 1, b - 1, c, d] for a, b, c, d in corners]
