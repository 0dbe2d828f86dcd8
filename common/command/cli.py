"""What the commands of both stages share: flags from dataclasses, one-line errors, exit codes.

Exit codes: 0 done, 1 something broke, 2 wrong arguments or data, 3 the training became non-finite,
130 ended by Ctrl-C, 143 by SIGTERM or SIGUSR1, a training after a checkpoint. A rank that ends
because another did exits with its code.
"""

import contextlib
import difflib
import inspect
import io
import multiprocessing
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

import docstring_parser  # tyro's
import tyro
from docstring_parser import Docstring, DocstringStyle

from common.command.flags import CheckFlags, RunFlags
from common.errors import InputError, outcome
from common.processes.signals import ending_at_once
from common.storage import file_locks, to_json
from common.text import say

_COLUMNS = 80
_TAIL = ("Argument helptext", "For full helptext")
_UNKNOWN = "Unrecognized options:"
_NUMBER = r"^Error parsing (--\S+): "
_PLAINER = (
    (
        _NUMBER + r"no type matching \{None\}\|INT could be .* from (\['.*?'\])\..*",
        r"\1 takes a whole number or None, not \2",
    ),
    (
        _NUMBER + r"no type matching \{None\}\|FLOAT could be .* from (\['.*?'\])\..*",
        r"\1 takes a number or None, not \2",
    ),
    (_NUMBER + r"invalid literal for int\(\) with base 10: ", r"\1 takes a whole number, not "),
    (_NUMBER + r"could not convert string to float: ", r"\1 takes a number, not "),
    (r"^Missing value for argument '(\S+)'\. Expected 1 values\.", r"\1 lacks its value"),
)
"""Messages about Python's types, and what they say to whoever typed a command."""
Args = TypeVar("Args")
Command = Callable[[list[str]], None]


def dispatch(
    program: str, commands: Mapping[str, Command], overview: str, argv: Sequence[str]
) -> int:
    """Run a command and turn what went wrong into one line and an exit code.

    Args:
        program: What the user typed, such as "python -m pretrain".
        commands: Each takes the arguments behind its name.
        overview: Help of the program.
        argv: Arguments behind the program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that knows ASCII alone
            stream.reconfigure(errors="backslashreplace")
    try:
        file_locks()  # or it is Windows
        if not argv or argv[0] in ("-h", "--help"):
            print(overview)
            return 0 if argv else 2
        command = commands[choose(argv[0], commands, "command", f"{program} --help")]
        # In a container this is process 1, which the system ends by no signal without a handler.
        with ending_at_once():
            command(list(argv[1:]))
        return 0
    except BaseException as error:
        code, line = outcome(error)
        group = _has_a_group()
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif line is not None:
            say(line, sys.stderr)
        elif not group:
            raise
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        if group:
            _leave(code)
        return code


def _has_a_group() -> bool:
    """Tell whether this process still belongs to a group of ranks; does not import torch."""
    group = sys.modules.get("torch.distributed")
    return group is not None and group.is_available() and group.is_initialized()


def _leave(code: int) -> NoReturn:
    """End this process now, with its group as it is.

    To take a group apart, as the end of the interpreter would, can wait for the other ranks, and
    they wait for this one in what they were doing together. The system closes all that is open:
    with gloo the others see it, and torchrun ends them where they do not.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report these deaths
    for reader in multiprocessing.active_children():
        reader.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def choose(name: str, known: Mapping[str, object], kind: str, where: str) -> str:
    """Return `name` if it is known.

    Raises:
        InputError: If it is not; the message gives the nearest names and where to find all.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:6]
    raise InputError(f"unknown {kind} {name!r}; nearest: {', '.join(near)} ({where} shows all)")


def recipe_name(
    argv: Sequence[str], recipes: Mapping[str, object], program: str
) -> tuple[str, list[str], str]:
    """Take the recipe's name off the arguments of `train`.

    Returns:
        The name, the other arguments, and what the user typed so far, for the usage line.

    Raises:
        InputError: If there is no name, or an unknown one.
    """
    if not argv or argv[0].startswith("-"):
        if "-h" in argv or "--help" in argv:
            print(f"usage: {program} train RECIPE --data DIR --out RUN [flags]\n")
            print(f"  {program} list                 shows the {len(recipes)} recipes")
            print(f"  {program} train RECIPE --help  shows the flags of one")
            print("\nThe same command again resumes where RUN left off.\n")
            print(f"example: {program} train {next(iter(recipes))} --data DIR --out runs/first")
            raise SystemExit(0)
        raise InputError(f"train needs a recipe first: `{program} list` shows all")
    name = choose(argv[0], recipes, "recipe", f"`{program} list`")
    return name, list(argv[1:]), f"{program} train {name}"


def unless_printing(argv: Sequence[str]) -> Any:
    """Return the default of a needed flag: none, unless only the recipe is to be printed."""
    return Path() if "--print-config" in argv else tyro.MISSING


def print_recipes(
    recipes: Mapping[str, Callable[[], Any]],
    argv: Sequence[str],
    program: str,
    group: Callable[[Any], str],
) -> None:
    """Print one recipe per line, with the first line of its docstring, and its group.

    On a terminal the groups are headings. Elsewhere they end the lines, so that the first word of
    every line is a recipe; of a group they have what stands behind its colon, the cost.

    Args:
        recipes: By name, in the order of the groups.
        argv: Arguments behind `list`.
        program: What the user typed.
        group: Says of a recipe on what it trains what, a colon, and what that costs.

    Raises:
        InputError: If there are arguments, other than a call for help.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: {program} list\n\nList the recipes, one per line, and what each reproduces.")
        return
    if argv:
        raise InputError(f"list takes no arguments: leave {' '.join(argv)} out")
    people = sys.stdout.isatty()
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, recipe in recipes.items():
        line = name, (recipe.__doc__ or "").splitlines()[0]
        groups.setdefault(group(recipe()), []).append(line)
    for heading, lines in groups.items():
        if people:
            print(f"\n{heading}")
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            if not people:
                print(f"{name}  {text} [{heading.rpartition(': ')[2]}]")
                continue
            whole = f"  {name:{width}}  {text}"
            print(whole if len(whole) <= _COLUMNS else _on_lines_of_its_own(name, text))


def _on_lines_of_its_own(name: str, text: str) -> str:
    indent = " " * 4
    lines = textwrap.wrap(text, _COLUMNS, initial_indent=indent, subsequent_indent=indent)
    return "\n".join([f"  {name}", *lines])


def given(argv: Sequence[str], flag: str) -> str | None:
    """Return what a flag is given, before the arguments are parsed; None: it is not there.

    For flags that change the defaults of others.
    """
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        name, equals, rest = word.partition("=")
        if name.replace("_", "-") == flag:
            value = rest if equals else following
    return value


def print_recipe(flags: RunFlags[Any]) -> None:
    """Print what --print-config shows."""
    shown = {"name": flags.name, "seed": flags.seed, "recipe": flags.recipe}
    print(to_json(shown), end="")


def parse(
    kind: type[Args],
    argv: Sequence[str],
    program: str,
    description: str,
    *,
    default: Args | None = None,
) -> Args:
    """Build the dataclass `kind` from flags; `--help` prints and exits.

    Args:
        kind: A dataclass whose fields are the flags.
        argv: Arguments.
        program: What the user typed, for the usage line.
        description: Head of the help; an example belongs in it.
        default: Where the defaults come from, if not from the class.

    Raises:
        InputError: For an unknown flag, a missing one or a bad value.
    """
    messages = io.StringIO()
    _check_paths(kind, argv, program)
    description = inspect.cleandoc(description)
    try:
        with contextlib.redirect_stderr(messages), _docstrings_in_one_line():
            if default is None:
                return tyro.cli(kind, args=argv, prog=program, description=description)
            return tyro.cli(kind, args=argv, prog=program, description=description, default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_one_sentence(messages.getvalue(), program)) from None
    except ValueError as error:  # a dataclass refused its values
        raise InputError(str(error)) from error


def _check_paths(kind: Any, argv: Sequence[str], program: str) -> None:
    """See that no path is "", the working folder, and that a list of paths is not given twice.

    Of two lists the last would count alone.

    Raises:
        InputError: If not.
    """
    told = f"{program} --help shows all flags"
    typed = [word.partition("=")[0].replace("_", "-") for word in argv]
    for field in fields(get_origin(kind) or kind):
        flag = f"--{field.name.replace('_', '-')}"
        places = [at for at, word in enumerate(typed) if word == flag and "Path" in str(field.type)]
        if len(places) > 1 and "tuple" in str(field.type):
            raise InputError(f"{flag} is there twice: give all paths after one; {told}")
        for at in places:
            if argv[at].endswith("=") or list(argv[at + 1 : at + 2]) == [""]:
                raise InputError(f"{flag} is empty: give a path, or leave it out; {told}")


@contextlib.contextmanager
def _docstrings_in_one_line() -> Iterator[None]:
    """Have tyro wrap whole docstrings of fields.

    It takes their second lines, which are indented in the source, for items of a list, and breaks
    the help where the source does.
    """
    read = docstring_parser.parse_from_object

    def unwrapped(of: Any, style: DocstringStyle = DocstringStyle.AUTO) -> Docstring:
        docstring = read(of, style)
        for field in docstring.params:
            field.description = field.description and " ".join(field.description.split())
        return docstring

    docstring_parser.parse_from_object = unwrapped  # type: ignore[assignment]
    try:
        yield
    finally:
        docstring_parser.parse_from_object = read


def parse_check(argv: Sequence[str], program: str) -> CheckFlags:
    """Parse the flags of check."""
    return parse(
        CheckFlags,
        argv,
        f"{program} check",
        "Take steps of a run again, and compare weights, optimizer and averages with what its\n"
        "certificate.json says, to the bit. Exit code 1, and the first tensor, if they differ.\n\n"
        f"example: {program} check RUN --steps 0:100",
    )


def _one_sentence(box: str, program: str) -> str:
    """Turn the framed message of tyro into one line: without its title and the flag's help."""
    lines = [re.sub(r"[╭╮╰╯│─]+", " ", line).strip() for line in box.splitlines()]
    title, *message = [line for line in lines if any(map(str.isalnum, line))]
    ends = [i for i, line in enumerate(message) if line.startswith(_TAIL)]
    message = message[: min(ends, default=len(message))]
    if title == "Required options":
        at = message.index(_UNKNOWN) if _UNKNOWN in message else len(message)
        absent = [line for line in message[:at] if line.startswith("--") or line.isupper()]
        unknown = ["unrecognized " + " ".join(message[at + 1 :]) + ";"] if message[at + 1 :] else []
        message = [*unknown, "missing " + ", ".join(absent)]
    sentence = " ".join(message or [title])
    sentence = re.sub(r"^Error parsing [\w\[\], .]+: ", "", sentence)  # a dataclass refused it
    for theirs, ours in _PLAINER:
        sentence = re.sub(theirs, ours, sentence)
    return f"{sentence}; {program} --help shows all flags"
