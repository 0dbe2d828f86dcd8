"""The lines of the epochs, as a person reads them."""

import pytest

from common.runs.epoch_lines import (
    MEMORY,
    OF_EVERY_TRAINING,
    Column,
    Kind,
    four_digits,
    head,
    line,
    short,
)
from detect.task import COLUMNS as DETECT
from pretrain.task import COLUMNS as PRETRAIN

RECORD = {
    "epoch": 7,
    "train_loss": 12.3456,
    "train_accuracy": 0.12345,
    "train_classification": 0.5,
    "train_box": 0.25,
    "val_loss": 1.5,
    "val_accuracy": 1.0,
    "val_top5": None,
    "val_map_11point": 0.7014,
    "val_map_area": 0.71,
    "val_coco_ap": 0.4,
    "lr": 9.6e-06,
    "images_per_second": 1234.5,
    "seconds": 4000.0,
    "gpu_memory_gib": 71.25,
}


def test_columns_are_aligned_under_a_head_that_says_the_units_once() -> None:
    columns = (*PRETRAIN, *OF_EVERY_TRAINING)
    printed = f"{head(columns, 10)}\n{line(RECORD, columns, 10, best=True)}".splitlines()
    assert printed == [
        "       ---- train ----  -------- val ---------",
        "epoch   loss  accuracy   loss  accuracy  top-5       lr  images/s     time",
        "                     %                %      %",
        " 7/10  12.35     12.35  1.500     100.0      -  9.6e-06      1234  1:06:40 best",
    ]


@pytest.mark.parametrize("own", [PRETRAIN, DETECT])
@pytest.mark.parametrize("memory", [(), (MEMORY,)])
@pytest.mark.parametrize("epochs", [3, 300])
def test_all_fits_into_80_columns(
    own: tuple[Column, ...], memory: tuple[Column, ...], epochs: int
) -> None:
    columns = (*own, *OF_EVERY_TRAINING, *memory)
    lines = [*head(columns, epochs).splitlines(), line(RECORD, columns, epochs, best=True)]
    assert max(map(len, lines)) <= 80
    plain = line(RECORD, columns, epochs, best=False)
    assert len(plain) == len(lines[1])
    assert len(plain.split()) == len(columns) + 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (9.9994, "9.999"),
        (-9.5, "-9.500"),
        (10, "10.00"),
        (99.99, "99.99"),
        (-99.99, "-99.99"),
        (100, "100.0"),
        (123.45, "123.5"),
        (999.9, "999.9"),
        (1000, "1000"),
        (99_999, "99999"),
        (100_000, "1e+05"),
        (-100_000, "-1e+05"),
        (1e9, "1e+09"),
    ],
)
def test_numbers_keep_four_digits(value: float, shown: str) -> None:
    assert four_digits(value) == shown


@pytest.mark.parametrize(
    ("kind", "value", "shown", "width"),
    [
        ("number", 1.5, "1.500", 5),
        ("number", None, "-", 5),
        ("percent", 0.5, "50.00", 5),
        ("percent", 0.0999, "9.99", 5),
        ("percent", 0.99994, "99.99", 5),
        ("percent", 0.99996, "100.0", 5),
        ("percent", 1.0, "100.0", 5),
        ("percent", None, "-", 5),
        ("rate", 0.1, "0.1", 7),
        ("rate", 0.000123, "0.00012", 7),
        ("rate", 1.24e-5, "1.2e-05", 7),
        ("speed", 9.96, "10.0", 5),
        ("speed", 99.94, "99.9", 5),
        ("speed", 100, "100", 5),
        ("speed", 12345.4, "12345", 5),
        ("time", 59.6, "1:00", 7),
        ("time", 3661, "1:01:01", 7),
        ("memory", 9.96, "10.0", 4),
        ("memory", 7, "7.0", 4),
    ],
)
def test_each_kind_of_value(kind: Kind, value: float | None, shown: str, width: int) -> None:
    column = Column("key", "h", kind)
    assert column.width == width and Column("key", "h" * 9, kind).width == 9
    assert Column("key", "h" * width, kind).width == width
    for epochs, first in ((1, "  1/1"), (99, " 1/99"), (100, "  1/100"[-7:])):
        told = line({"epoch": 1, "key": value}, [column], epochs, best=False)
        assert told == f"{first}{shown.rjust(width + 2)}"
    sign = "%" if kind == "percent" and value is not None else ""
    assert short("key", value, [column]) == f"h {shown}{sign}"


def test_what_a_record_lacks_is_a_dash() -> None:
    told = line({"epoch": 3}, [Column("key", "head")], 12, best=True)
    assert told == f"{'3/12'.rjust(5)}{'-'.rjust(7)} best"


@pytest.mark.parametrize(("more", "gap"), [(0, 2), (1, 1)])
def test_a_second_space_where_there_is_room_for_it(more: int, gap: int) -> None:
    """A line of 80 columns with two: 5 of the epoch, 3 * 10, 30 + 2 * 4 spaces and 5 of best."""
    columns = [
        Column("a", "a" * 10, "percent", group="train"),
        Column("b", "b" * 10, "memory", group="train"),
        Column("c", "c" * 10, "rate"),
        Column("d", "d" * (32 + more), group="val"),
    ]
    told = line({"epoch": 1}, columns, 1, best=True)
    assert len(told) == 80 - 4 * (2 - gap) + more
    over, names, units = head(columns, 1).split("\n")
    space = " " * gap
    ab, c, d = "-" * (20 + gap), " " * (10 + gap), "-" * (32 + more)
    train, val = " train ".center(len(ab), "-"), " val ".center(len(d), "-")
    assert over == f"     {space}{train}{c}{space}{val}"
    assert names == "epoch" + "".join(space + one.head for one in columns)
    assert units == f"     {space}{'%'.rjust(10)}{space}{'GiB'.rjust(10)}"


def test_a_value_in_a_sentence() -> None:
    assert short("val_accuracy", 0.345, PRETRAIN) == "val accuracy 34.50%"
    assert short("val_map_11point", None, DETECT) == "val mAP 11-pt -"
    assert short("val_score", 0.5, ()) == "val_score 0.500"
