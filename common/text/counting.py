"""Numbers with their nouns, for messages."""


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """Return "1 image", "2 images", "1,200 classes".

    Args:
        number: How many.
        noun: Of one; more words may follow it ("image of the set") if `nouns` is given.
        nouns: Of several; None: the noun with an s, or es behind a hiss.
    """
    if number == 1:
        return f"1 {noun}"
    ending = "es" if noun.endswith(("s", "x", "sh", "tch")) else "s"
    return f"{number:,} {nouns or noun + ending}"
