"""Text of any length as a message shows it."""


def shortened(text: str, length: int = 60) -> str:
    """The text; where it is longer than `length`, without its middle: of a path, the end tells the most."""
    return text if len(text) <= length else f"{text[: 2 * length // 3]}...{text[-length // 3 :]}"
