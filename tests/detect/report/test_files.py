"""What lies beside the page: JSON, CSV and PNG files; and names that are not ASCII."""

import csv
import json

import cv2
import numpy as np
import pytest
from reports import Page, write_devkit, write_run

from common.errors import InputError
from detect import __main__ as command
from detect.report import write_report
from detect.report.drawing import boxes
from detect.report.drawing.style import LIGHT


def strict_json(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_all_files_are_there_and_told(written):
    _, _, files = written
    folder = files[0].parent
    names = ["report.html", "report.md", "report.json", "report.csv"]
    charts = ("map", "classes", "curves", "errors", "confusion", "training")
    names += [
        f"report-figures/{chart}.{kind}" for chart in charts for kind in ("png", "svg", "csv")
    ]
    names += [f"report-figures/picture-{number}.jpg" for number in (1, 2, 3)]
    assert [file.relative_to(folder).as_posix() for file in files] == names
    there = [file for file in folder.rglob("*") if file.is_file()]
    assert sorted(names) == sorted(file.relative_to(folder).as_posix() for file in there)


def test_the_json_holds_the_numbers_worked_out_by_hand(written):
    _, _, files = written
    content = strict_json(files[2].read_text("utf-8"))
    assert (content["images"], content["objects"], content["difficult"]) == (4, 3, 1)
    plain, focused = content["runs"]
    assert plain["voc"]["map_11point"] == pytest.approx((6 / 11 + 1) / 2)
    assert plain["best_f1_by_class"]["cat"] == pytest.approx(
        {"score_threshold": 0.9, "f1": 2 / 3, "precision": 1, "recall": 0.5,
         "true_positives": 1, "false_positives": 0}
    )  # fmt: skip
    assert plain["best_f1_by_class"]["emu"] is None
    assert focused["best_f1"]["f1"] == pytest.approx(0.8)
    assert focused["confusion"]["counts"] == [[2, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]
    assert focused["errors"]["gain"]["missed"] == pytest.approx(0.5)
    assert [record["epoch"] for record in focused["training"]] == [1, 2, 3]
    (difference,) = content["differences"]
    assert (difference["from"], difference["to"]) == ("plain", "focused")
    assert difference["map_area"]["value"] == pytest.approx(-0.25)


def write_large_image(devkit):
    """In place of image 000004: one with a cat of 96 x 96 pixels and a dog of 32 x 32."""
    thing = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax>"
    thing += "<ymax>{}</ymax></bndbox></object>"
    things = thing.format("cat", 96, 96) + thing.format("dog", 32, 32)
    size = "<size><width>99</width><height>99</height></size>"
    xml = f"<annotation>{size}{things}</annotation>"
    (devkit / "VOC2007" / "Annotations" / "000004.xml").write_text(xml)
    image = devkit / "VOC2007" / "JPEGImages" / "000004.jpg"
    cv2.imwrite(str(image), np.zeros((99, 99, 3), np.uint8))


def write_more_images(devkit, runs):
    """Thirty times image 000001; without them intervals would hardly depend on what was drawn."""
    year, ids = devkit / "VOC2007", [f"{number:06}" for number in range(5, 35)]
    for image in ids:
        for name in ("Annotations/{}.xml", "JPEGImages/{}.jpg"):
            (year / name.format(image)).write_bytes((year / name.format("000001")).read_bytes())
    with (year / "ImageSets/Main/test.txt").open("a") as file:
        file.write("\n" + "\n".join(ids))
    for every, run in zip((3, 2), runs, strict=True):
        with (run / "voc" / "comp4_det_test_cat.txt").open("a") as file:
            file.writelines(
                f"\n{image} {0.3 + 0.01 * n} {'11 11 30' if n % every else '31 11 50'} 30"
                for n, image in enumerate(ids)
            )


def test_the_report_agrees_with_analysis_json(two_runs, tmp_path, call_command):
    devkit = tmp_path / "VOCdevkit"
    write_large_image(devkit)
    write_more_images(devkit, two_runs)
    nothing = tmp_path / "nothing"  # neither is a hit
    nothing.mkdir()
    for name in ("cat", "dog", "emu"):
        lines = "000003 0.8 41 11 60 30\n000003 0.2 41 11 60 30" if name == "cat" else ""
        (nothing / f"comp4_det_test_{name}.txt").write_text(lines)
    folders = []
    for path in (two_runs[0] / "voc", two_runs[1] / "voc", nothing):
        folders.append(tmp_path / f"scored-{len(folders)}")
        against = ("--against", folders[0]) if len(folders) > 1 else ()
        given = ("--detections", path, "--data", devkit, "--out", folders[-1])
        code, _, error = call_command(command, "score", *given, "--split", "2007:test", *against)
        assert code == 0, error
    files = write_report(folders, tmp_path / "report.html")
    content = strict_json(files[2].read_text("utf-8"))
    records = [json.loads((folder / "analysis.json").read_text()) for folder in folders]
    for run, record in zip(content["runs"], records, strict=True):
        confusion = record["confusion"]
        assert run["confusion"]["counts"] == confusion["matrix"]
        assert run["confusion"]["threshold"] == confusion["score_threshold"]
        best = {name: of_class["best_f1"] for name, of_class in record["per_class"].items()}
        assert run["best_f1_by_class"] == best
        errors = record["errors"]
        assert run["errors"] == {"gain": errors["delta_ap"], "counts": errors["counts"]}
        for kind, interval in run["intervals"].items():
            assert interval.items() <= record["intervals"][kind].items()
    for difference, record in zip(content["differences"], records[1:], strict=True):
        for kind in ("map_11point", "map_area"):
            expected = {key: record["against"][kind][key] for key in ("value", "low", "high")}
            assert expected.items() <= difference[kind].items()

    page = Page(files[0].read_text("utf-8"))
    sizes = records[0]["by_size"]
    assert [part["objects"] for part in sizes.values()] == [33, 2, 0]
    heads = ["Small, 33 objects", "Medium, 2 objects"]
    assert page.tables["COCO AP by object size, percent"][0][1:] == heads
    label = content["runs"][2]["label"]
    assert page.tables[f"{label}, all detections"][-1][1] == "100"
    assert content["runs"][2]["confusion"]["counts"][-1] == [2, 0, 0, 0]
    assert {"Calibration", "Likely label errors"} <= set(page.visible.split("\n"))
    for run, record in zip(content["runs"], records, strict=True):
        assert run["calibration"] == record["calibration"]


def shown(value, kind: str) -> list[float]:
    """The numbers as the page shows them, before rounding."""
    values = value if isinstance(value, list) else [value]
    return [100 * v if kind in ("percent", "points") else v for v in values]


def test_the_json_holds_every_number_of_the_tables(written):
    page, _, files = written
    tables = strict_json(files[2].read_text("utf-8"))["tables"]
    matrices = ("from score", "against plain")
    on_page = [c for c in page.tables if not any(words in c for words in matrices)]
    assert {table["caption"] for table in tables} == set(on_page)
    compared = 0
    for table in tables:
        if "setting" in table["columns"][0]["name"].lower():
            continue
        rows = page.tables[table["caption"]][1:]
        for row, texts in zip(table["rows"], rows, strict=True):
            for value, text, column in zip(row, texts, table["columns"], strict=True):
                if isinstance(value, str) or value is None:
                    assert text == (value or "n/a")
                    continue
                numbers = [float(n) for n in text.replace("\u2212", "-").split(" to ")]
                assert numbers == pytest.approx(shown(value, column["kind"]), abs=0.051)
                compared += 1
    assert compared > 60


def test_infinite_numbers_of_strangers_become_null(two_runs, tmp_path):
    file = two_runs[0] / "evaluation.json"
    evaluation = json.loads(file.read_text())
    file.write_text(json.dumps({**evaluation, "recipe": {"lr": float("nan")}}))
    out = tmp_path / "report.html"
    write_report(two_runs[:1], out)
    content = strict_json(out.with_suffix(".json").read_text("utf-8"))
    assert content["runs"][0]["evaluation"]["recipe"] == {"lr": None}


def test_the_csv_has_a_row_a_class_and_run(written):
    _, _, files = written
    with files[3].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["class"]) for row in rows] == [
        (run, name) for run in ("plain", "focused") for name in ("cat", "dog", "emu")
    ]
    metrics = json.loads((files[0].parents[1] / "b" / "metrics.json").read_text())
    for row in rows[3:]:
        for key, value in metrics["voc"]["per_class"][row["class"]].items():
            assert row[key] == ("" if value is None else str(value))
    assert float(rows[0]["best_recall"]) == 0.5
    assert rows[2]["best_score_threshold"] == ""


def test_the_charts_show_both_runs(written):
    _, _, files = written
    for file in files[4:-3:3]:
        pixels = cv2.imread(str(file))[:, :, ::-1]
        assert min(pixels.shape[:2]) > 180
        told = "Training curves" if "training" in file.name else "4 images (VOCdevkit, 2007:test)"
        assert told in file.with_suffix(".svg").read_text("utf-8")
        if "confusion" in file.name:
            assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # shades and letters
            continue
        for run in ("run-1", "run-2"):
            if "classes" in file.name and run == "run-1":
                continue  # differences to the first
            colour = [int(LIGHT[run][i : i + 2], 16) for i in (1, 3, 5)]
            assert np.count_nonzero((pixels == colour).all(axis=2)) > 30, file
        assert LIGHT["run-2"] in file.with_suffix(".svg").read_text()


def rows_of(files, name: str) -> list[dict[str, str]]:
    with files[0].with_name("report-figures").joinpath(name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_chart_has_its_numbers(written):
    _, _, files = written
    maps = {(row["row"], row["run"]): float(row["value"]) for row in rows_of(files, "map.csv")}
    assert maps["plain", "plain"] == pytest.approx(100 * (6 / 11 + 1) / 2)
    assert maps["focused against plain", "focused"] == pytest.approx(100 * (0.5 - (6 / 11 + 1) / 2))
    classes = [(row["row"], float(row["value"])) for row in rows_of(files, "classes.csv")]
    assert classes == [("cat", pytest.approx(500 / 11)), ("dog", pytest.approx(-100))]
    errors = {row["kind"]: row for row in rows_of(files, "errors.csv")}
    assert float(errors["missed"]["focused"]) == pytest.approx(50)
    confusion = [tuple(row.values()) for row in rows_of(files, "confusion.csv")]
    assert ("focused", "dog", "background", "1") in confusion
    training = rows_of(files, "training.csv")
    assert {"quantity": "Training loss", "run": "plain", "epoch": "2.0", "value": "1.0"} in training
    curve = [row for row in rows_of(files, "curves.csv") if row["class"] == "cat"]
    assert [float(row["recall"]) for row in curve if row["run"] == "plain"] == [0, 0.5, 0.5]


def test_a_folder_that_cannot_be_written_is_told(two_runs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").mkdir()
    with pytest.raises(InputError, match=r"report\.html could not be written"):
        write_report(two_runs, tmp_path / "out" / "report.html")


# ---- names that are not ASCII -------------------------------------------------------------------


CAT, DOG, MOUSE = "\u732b", "d\u00f6g", "\u043c\u044b\u0448\u044c"  # the font lacks the first
TITLE = "_$Gr\u00f6\u00dfe$"


def test_letters_of_the_font_are_drawn_and_others_replaced_visibly():
    assert boxes.drawable(f"{DOG} {MOUSE}") == f"{DOG} {MOUSE}"
    assert boxes.drawable(f"{CAT} cat") == "\ufffd cat"


def drawn(label: str):
    pixels = np.zeros((200, 200, 3), np.uint8)
    return boxes.draw_boxes(pixels, [boxes.LabelledBox((10, 50, 150, 150), label, boxes.OBJECT)])[0]


def test_labels_that_differ_look_different():
    labels = [DOG, "dog", "d?g", "\u0434", "?", CAT, ""]
    assert len({drawn(label) for label in labels}) == len(labels)


def test_class_names_that_are_not_ascii_reach_every_file(tmp_path):
    names = (CAT, DOG, MOUSE)
    devkit = write_devkit(tmp_path / "VOCdevkit", classes=names)
    lines = {
        CAT: ["000001 0.9 11 11 30 30"],
        DOG: ["000002 0.7 31 11 60 40"],
        MOUSE: [],
    }
    run = write_run(tmp_path / "run", devkit, lines, TITLE)
    files = write_report([run], tmp_path / "out" / "report.html")  # a missing glyph would warn
    for file in files[:4]:
        text = file.read_text("utf-8")
        assert all(name in text for name in (CAT, DOG, TITLE))
        assert MOUSE in text or file.suffix == ".md"  # it has no counted object
    alts = [image["alt"] for image in Page(files[0].read_text("utf-8")).images()]
    assert any(f"1 {CAT}" in alt for alt in alts)
