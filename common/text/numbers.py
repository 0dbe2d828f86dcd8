"""Numbers in foreign files."""


def parse_number(text: str) -> float:
    """Read a number; unlike Python, which takes 6_0 for 60, without underscores.

    Raises:
        ValueError: If it is none.
    """
    if "_" in text:
        raise ValueError(f"{text!r} is not a number")
    return float(text)
