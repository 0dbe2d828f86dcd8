"""Reading detectron2's pickles of weights."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from common.errors import InputError, os_reason, summary
from common.storage import open_regular
from common.weights.kinds import refuse_foreign
from common.weights.pickles import Array, load_arrays


def read_detectron2(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a pickle in detectron2's layout, {"model": {name: array}}.

    Raises:
        InputError: If it holds anything but arrays, of numbers that torch has, and plain values.
    """
    try:
        with open_regular(path) as file:
            content = load_arrays(file.read())
        model = content.get("model", content) if isinstance(content, dict) else None
        if not isinstance(model, dict) or not model or not all(isinstance(n, str) for n in model):
            raise InputError(f'{path} is no file of detectron2: give one with {{"model": ...}}')
        found = {n: v.array() if isinstance(v, Array) else None for n, v in model.items()}
    except InputError:
        refuse_foreign(path)
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {os_reason(error)}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        refuse_foreign(path)
        raise InputError(
            f"{path} is not a pickle of arrays alone, export again: {summary(error)}"
        ) from error
    arrays = {name: array for name, array in found.items() if array is not None}
    if len(arrays) < len(found):
        name = next(name for name in found if name not in arrays)
        kind = model[name] if isinstance(model[name], Array) else type(model[name]).__name__
        raise InputError(
            f"{path} holds {name[:60]!r} ({kind}), which is no array of numbers that torch has: "
            "give weights as detectron2 writes them"
        )
    return arrays
