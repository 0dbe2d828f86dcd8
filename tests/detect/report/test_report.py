"""The report on a devkit of four images whose AP is worked out by hand (see conftest.py)."""

import json
import re
import shutil
from collections import Counter
from itertools import pairwise

from detect.report import write_report
from detect.report.writers.blocks import (
    Bars,
    Cell,
    Code,
    Column,
    Details,
    Dot,
    DotRow,
    Dots,
    Heading,
    Lead,
    Matrices,
    Matrix,
    Note,
    Section,
    Span,
    Table,
    Text,
)
from detect.report.writers.markdown import to_markdown
from detect.report.writers.page import to_html

MINUS = "\u2212"


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    tables = re.findall(r"^(.+):\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    return {
        caption: [[cell.strip() for cell in row[1:-1].split(" | ")] for row in body.splitlines()]
        for caption, body in tables
    }


# ---- numbers ------------------------------------------------------------------------------------


def test_the_page_shows_the_scores_worked_out_by_hand(written):
    page, _, _ = written
    rows = page.rows("Scores of the runs, percent")
    plain, focused = rows["plain"], rows["focused"]
    assert (plain["mAP (11-point)"], focused["mAP (11-point)"]) == ("77.3", "50.0")
    assert (plain["mAP (area)"], focused["mAP (area)"]) == ("75.0", "50.0")  # (1/2 + 1) / 2
    assert plain["Detections"] == "4"
    assert page.tables["AP by class, 11-point, percent"][1:] == [
        ["cat", "2", "0", "54.5", "100.0", "+45.5"],
        ["dog", "1", "0", "100.0", "0.0", f"{MINUS}100.0"],
        ["All classes (mAP)", "3", "0", "77.3", "50.0", f"{MINUS}27.3"],
    ]  # emu has no counted object
    areas = [row[3] for row in page.tables["AP by class, area, percent"][1:]]
    assert areas == ["50.0", "100.0", "75.0"]
    assert page.tables["COCO AP by object size, percent"][0] == ["Run", "Small, 3 objects"]
    assert "1 more classes of the data have no counted object" in page.visible


def test_intervals_hold_the_score_and_differences_are_second_minus_first(written):
    page, _, _ = written
    for row in page.rows("Scores of the runs, percent").values():
        for name in ("11-point", "area"):
            low, high = map(float, row[f"95% interval ({name})"].split(" to "))
            assert 0 <= low <= float(row[f"mAP ({name})"]) + 0.1
            assert float(row[f"mAP ({name})"]) <= high <= 100
    caption = "Differences to plain, percentage points; bold: the interval over images leaves out 0"
    (row,) = page.rows(caption).values()
    for name, value in (("11-point", "27.3"), ("area", "25.0")):
        assert row[f"mAP difference ({name})"] == MINUS + value
        interval = row[f"95% interval ({name})"].replace(MINUS, "-")
        low, high = map(float, interval.split(" to "))
        assert low < -25 < high


def test_best_f1_by_class_is_worked_out_by_hand(written):
    page, _, _ = written
    head, *rows = page.tables["Score threshold of the best F1 by class of plain"]
    assert head[2:] == ["Threshold", "F1, percent", "Precision, percent", "Recall, percent",
                        "True positives", "False positives"]  # fmt: skip
    assert rows == [
        ["cat", "2", "0.900", "66.7", "100.0", "50.0", "1", "0"],
        ["dog", "1", "0.700", "100.0", "100.0", "100.0", "1", "0"],
        ["All classes, one threshold", "4", "0.700", "66.7", "66.7", "66.7", "2", "1"],
    ]


def test_errors_and_confusion_are_worked_out_by_hand(written):
    page, markdown, _ = written
    rows = page.rows("Errors, gain in percentage points")
    assert list(rows["background"].values())[1:] == ["0.0", "1", "0.0", "2"]
    # A missed object less: cat has AP 1 and not 1/2; dog, which has AP 0, leaves the mean.
    assert list(rows["missed"].values())[1:] == ["+25.0", "1", "+50.0", "1"]
    assert "25.0 | 50.0" in page.visible
    assert list(rows["false positive"].values())[2::2] == ["1", "2"]
    assert list(rows["false negative"].values())[2::2] == ["1", "1"]
    assert page.tables["plain, from score 0.70"] == [
        ["True", "cat", "dog", "background"],
        ["cat", "50", "", "50"],
        ["dog", "", "100", ""],
        ["background", "100", "", ""],
    ]
    assert page.tables["focused against plain, points"][1:] == [
        ["cat", "+50", "", f"{MINUS}50"],
        ["dog", "", f"{MINUS}100", "+100"],
        ["background", f"{MINUS}100", "", ""],
    ]
    titles = [attributes.get("title") for tag, attributes in page.elements if tag == "td"]
    assert "cat, background: 1" in titles
    percents = [row[1:] for row in markdown_tables(markdown)["focused, from score 0.80"][2:]]
    assert percents == [["100", "", ""], ["", "", "100"], ["", "", ""]]


def test_speed_and_training_are_shown_where_they_are_recorded(written, two_runs, report):
    page, _, _ = written
    rows = page.rows("Speed of detection")
    assert list(rows["focused"].values())[1:] == ["12.3", "20.0", "1", "87.7", "16", "n/a"]
    assert set(list(rows["plain"].values())[1:]) == {"n/a"}
    assert "12.3 ms, 90% under 20.0" in page.visible
    assert "On a shared machine these times are noise" in page.visible
    assert "Learning ratelast: 0.03333, 0.03333" in page.visible.replace("\n", "")
    assert "Steps with FocusedDropoutlast: 3" in page.visible.replace("\n", "")
    assert "Validation mAP (area), percentlast: 50, 50" in page.visible.replace("\n", "")
    assert "0123abcd" in page.visible
    for folder in ("plain", "focused"):
        (two_runs[0].parent / folder / "metrics.jsonl").unlink()
    page, _ = report(two_runs[:1])
    assert "Speed of detection" not in page.tables
    assert "Training curves" not in page.visible


def test_different_data_is_told(two_runs, report):
    file = two_runs[0] / "evaluation.json"
    evaluation = json.loads(file.read_text())
    file.write_text(json.dumps({**evaluation, "data_fingerprint": "4567"}))
    page, _ = report(two_runs)
    assert "fingerprints of the runs differ" in page.visible


def test_both_files_show_what_metrics_json_holds(written):
    page, markdown, files = written
    folders = [files[0].parents[1] / name for name in "ab"]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in folders]
    headline = "Scores of the runs, percent"
    for tables in (page.tables, markdown_tables(markdown)):
        rows = tables[headline][-2:]
        for row, of_run in zip(rows, metrics, strict=True):
            voc, coco = of_run["voc"], of_run["coco"]
            values = [voc["map_11point"], voc["map_area"], coco["ap"], coco["ap50"], coco["ap75"]]
            assert [row[i] for i in (1, 3, 5, 6, 7)] == [f"{100 * v:.1f}" for v in values]
        for key, caption in (("ap_11point", "11-point"), ("ap_area", "area")):
            rows = {row[0]: row for row in tables[f"AP by class, {caption}, percent"]}
            for name in ("cat", "dog"):
                values = [m["voc"]["per_class"][name][key] for m in metrics]
                assert rows[name][3:5] == [f"{100 * v:.1f}" for v in values]
            assert "emu" not in rows


def test_each_coco_number_stands_under_its_name(two_runs, report):
    """Three values that differ: here AP50 and AP75 of the drawn runs are the same."""
    for run, (ap, ap50, ap75) in zip(two_runs, [(11, 22, 33), (44, 55, 66)], strict=True):
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["coco"] |= {"ap": ap / 100, "ap50": ap50 / 100, "ap75": ap75 / 100}
        (run / "metrics.json").write_text(json.dumps(metrics))
    page, markdown = report(two_runs)
    for tables in (page.tables, markdown_tables(markdown)):
        names, *_, first, second = tables["Scores of the runs, percent"]
        columns = [names.index(f"COCO {name}") for name in ("AP", "AP50", "AP75")]
        assert [[row[i] for i in columns] for row in (first, second)] == [
            ["11.0", "22.0", "33.0"],
            ["44.0", "55.0", "66.0"],
        ]


def test_nothing_is_bold_that_is_not_decided(written, two_runs, report):
    page, markdown, _ = written
    # Only the values of settings that differ, and what is said first.
    assert set(page.bold) == {"0.01", "0.02"}
    bold = re.findall(r"\*\*(.+?)\*\*", markdown)
    assert set(bold[1:]) == {"0.01", "0.02"}
    single, markdown = report(two_runs[:1])
    assert not single.bold
    assert len(re.findall(r"\*\*(.+?)\*\*", markdown)) == 1
    assert "baseline" not in single.visible
    assert single.tables["AP by class, 11-point, percent"][1] == ["cat", "2", "0", "54.5"]


def test_values_are_written_as_their_columns_say():
    kinds = ("text", "points", "points", "percent", "number", "number")
    columns = tuple(Column(str(i), kind) for i, kind in enumerate(kinds))
    values = ("x", -1e-9, Span(-0.012, 0.034), Span(0.5, 0.625), 0.1234, 123.46)
    table = Table("t", columns, (tuple(map(Cell, values)),))
    html = to_html("t", [table])
    assert ">0.0</td>" in html  # neither +0.0 nor -0.0
    assert ">&minus;1.2 to +3.4</td>" in html
    line = "| x | 0.0 | -1.2 to +3.4 | 50.0 to 62.5 | 0.123 | 123.5 |"
    assert line in to_markdown([table], "figures")


def test_recipes_are_tables_of_dotted_keys_and_differences_are_marked(written):
    page, markdown, _ = written
    assert page.tables["What differs between the recipes"] == [
        ["Setting", "plain", "focused"],
        ["optimization.lr", "0.01", "0.02"],
    ]
    recipe = page.tables["Recipe; bold: differs between the runs"]
    assert recipe[1:] == [
        ["body", "resnet18"],
        ["optimization.lr", "0.02"],
        ["optimization.steps", "[1, 2]"],
    ]
    assert {"0.01", "0.02"} <= set(page.bold)
    assert "resnet18" not in page.bold
    assert "| optimization.lr | **0.02** |" in markdown
    charts = ("map", "classes", "curves", "errors", "confusion", "training")
    linked = re.findall(r"^!\[.+\]\((.+)\)$", markdown, re.MULTILINE)
    pictures = [f"report-figures/picture-{number}.jpg" for number in (1, 2, 3)]
    drawn = [f"report-figures/{name}.png" for name in charts]
    assert linked == [drawn[0], *pictures, *drawn[1:]]
    assert page.visible.count("Environment: not recorded.") == 2
    assert page.visible.count("python -m detect score") == 2


# ---- the page -----------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_accessible(written):
    page, _, files = written
    tags = [tag for tag, _ in page.elements]
    assert not {"link", "iframe", "object", "base", "form"} & set(tags)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/webp;base64,"))
        assert not [name for name in attributes if name.startswith("on")]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "images-data"}, {}]
    assert tags.count("style") == 1
    assert ("html", {"lang": "en"}) in page.elements
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert all(attributes["alt"] for attributes in page.images())
    assert tags.count("caption") == tags.count("table")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = files[0].read_text("utf-8").replace("http://www.w3.org/2000/svg", "", 1)  # a name
    assert not re.search(r"@import|url\((?!#)|https?:", text)


def test_two_calls_write_the_same_bytes(two_runs, tmp_path):
    contents = []
    for name in ("x", "y"):
        files = write_report(two_runs, tmp_path / name / "report.html")
        contents.append({file.name: file.read_bytes() for file in files})
        assert len(contents[-1]) == len(files)
    assert contents[0] == contents[1]
    assert Counter(name.rpartition(".")[2] for name in contents[0]) == {
        **dict.fromkeys(("html", "md", "json"), 1),
        **dict.fromkeys(("png", "svg"), 6),
        "csv": 7,
        "jpg": 3,
    }


def test_hostile_text_stays_text(two_runs, report):
    evil = "<script>alert(1)</script>\"'&amp; | `x` [y](z) $"
    recipe = {evil: evil, "x": {"</table>": "<img src=x onerror=alert(1)>"}}
    known = {"recipe": recipe, "command": evil, "backbone": {"<b>": [evil]}}
    for run, title in zip(two_runs, (evil, "</style>"), strict=True):
        file = run / "evaluation.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **known, "title": title}))
    page, markdown = report(two_runs)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert all(image["src"].startswith("data:") for image in page.images())
    assert page.visible.count(evil) > 5
    assert evil[:23] in page.images()[0]["alt"]
    assert "<script" not in markdown.replace("    " + evil, "")  # the command is a code block
    assert "<img" not in markdown
    for table in markdown_tables(markdown).values():
        assert len({len(row) for row in table}) == 1


def test_hostile_class_names_and_captions_stay_text():
    evil = "<script>alert(1)</script>"
    table = Table(evil, (Column(evil), Column("n", "count")), ((Cell(evil), Cell(1)),))
    matrix = Matrices(evil, (Matrix(evil, evil, (evil,), ((1,),), ((1.0,),), ((evil,),)),))
    dots = Dots(evil, evil, (DotRow(evil, (Dot(0, 1.0, 0.0, 2.0),), evil),), runs=(evil,))
    bars = Bars(evil, evil, (evil,), ((1.0, 2.0),), (evil, evil))
    inner = (table, matrix, Code("x"), dots, bars, Lead(evil), Note(evil))
    blocks = [Heading(1, evil), Text(evil), Section("x", evil, (Details(evil, inner),))]
    assert to_html(evil, blocks).count("<script>") == 1
    assert "<script" not in to_markdown(blocks, "figures")


def test_repeated_titles_are_told_apart_by_their_folders(two_runs, report):
    for run in two_runs:
        file = run / "evaluation.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "title": "same"}))
    page, _ = report(two_runs)
    rows = page.rows("The runs")
    assert [row["In full"] for row in rows.values()] == ["same (a)", "same (b)"]
    assert list(rows) == ["same, run 1", "same, run 2"]


def test_without_pictures_all_else_is_there(two_runs, report):
    shutil.rmtree(two_runs[0].parent / "VOCdevkit" / "VOC2007" / "JPEGImages")
    page, _ = report(two_runs)
    assert page.images() == []
    assert "no picture is shown" in page.visible
    assert list(page.rows("Scores of the runs, percent")) == ["plain", "focused"]


def test_a_folder_of_before_has_no_new_sections(written):
    page, _, _ = written  # its folders hold neither analysis.json nor label_errors.json
    for title in ("Calibration", "Likely label errors"):
        assert title not in page.visible
