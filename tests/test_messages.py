"""Every message of an error, as far as the source tells, has a remedy, and two lines at most."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = {"InputError", "PeerFailed", "ReaderKilled", "SharedMemoryFull"}
"""Exceptions whose message is the line that a user sees; what derives from them is added."""
REMEDIES = set(
    """
    add call change check choose close compare convert copy correct define delete download draw
    enlarge evaluate
    export fetch fetches first follow free give install keep label leave lower make mend
    move name number
    pass pip put raise rebuild remedy remove rename repair repeat run save say score see set shows
    start swap
    take shorten train turn unpack use wait write
    """.split()
)
MOST = 200
"""Characters of a message without what is put into it: two lines of a terminal that is wide."""
PUT_IN = "\0"


def template(node: ast.expr) -> str:
    """Return a message with a mark for each value; "remedy" for what writes one itself."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.FormattedValue):
        remedies = re.search(r"remedy|\bos_reason\(|^serves$", ast.unparse(node.value))
        return f"{PUT_IN}remedy" if remedies else PUT_IN
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return PUT_IN


def parsed() -> Iterator[tuple[Path, ast.AST]]:
    for top in ("common", "pretrain", "detect", "scripts"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                yield path, node


def kinds() -> set[str]:
    """Return the names of `KINDS` and of all classes that derive from them."""
    bases = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for _, node in parsed()
        if isinstance(node, ast.ClassDef)
    }
    found = set(KINDS)
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def messages() -> Iterator[tuple[str, str]]:
    """Yield the texts of errors, and of the faults that `verify` lists."""
    errors = kinds()
    for path, node in parsed():
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called, text = ast.unparse(node.func), None
        if called.rpartition(".")[2] in errors:
            text = template(node.args[0])
        elif called.endswith(".fault"):
            text = template(node.args[-1])
        elif called.endswith("faults.append") and isinstance(node.args[0], ast.Tuple):
            text = template(node.args[0].elts[-1])
        if text and re.search("[a-z]", text.replace("remedy", "")):
            yield f"{path.relative_to(ROOT)}: {text.replace(PUT_IN, '{}')}", text


ALL = dict(messages())
ELSEWHERE = {
    "{} offers nothing to learn: {}",
    "{}, listed above; {}{}{}",
    # What is put in ends in a remedy.
    "the image {} is {}",
    "{} is {}{}",
    "the image {} in {} is {}",
    "--focus.after {}: {}",
    "--dropout.after {}: {}",
    "the index of shards at {} {}",
    "is no index of shards ({})",
    "{}; --skip-bad {} is used up: {} lists the others",
    "{} could not be fetched: {}{}",
    "{} the split, {} and {}",
    "{} the classes, {} and {}",
    "{} the overlap, {} and {}",
    "{} --recall, {} and {}",
    "--difference {}: {}",
    "the index of shards cannot be fetched: {}",
}


def test_there_are_messages() -> None:
    assert len(ALL) > 250
    assert {key.partition(": ")[2] for key in ALL} >= ELSEWHERE, "an exception that nothing needs"


def test_messages_have_a_remedy_and_two_lines() -> None:
    assert [key for key, text in ALL.items() if not fits(key.partition(": ")[2], text)] == []


def fits(shown: str, text: str) -> bool:
    line, _, tree = text.partition("\n")  # a tree of folders, expected and found, may follow
    if len(line.replace(PUT_IN, "")) > MOST or tree.strip() not in ("", PUT_IN):
        return False
    behind = re.split(r"[:;,(?]| or ", line)[1:] or [line]
    words = [set(re.findall("[a-z]+", part)[:3]) for part in behind]
    return bool(tree) or shown in ELSEWHERE or any(some & REMEDIES for some in words)
