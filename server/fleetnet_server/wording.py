"""How many of what, for people: "1 rule", "2 rules"."""


def counted(number: int, one: str, more: str = "") -> str:
    """Return a number and its noun.

    Args:
        one: the noun of one. more: of any other number; "": ``one`` with an s.
    """
    return f"{number} {one}" if number == 1 else f"{number} {more or one + 's'}"
