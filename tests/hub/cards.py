"""What the loopback Hub reads from a model card, without a YAML parser: entries of one line, and gross mistakes."""

import re

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def front_matter(card: str) -> list[str] | None:
    """The lines of the metadata at the head of a card, `None` if there is none or its end is missing."""
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return None
    return lines[1 : lines.index("---", 1)]


def card_values(content: bytes) -> dict[str, str]:
    """The entries of the metadata that are one plain value."""
    found = {}
    for line in front_matter(content.decode("utf-8", "replace")) or []:
        match = re.fullmatch(r"(\w+):\s+([^\[{&*|>].*)", line)
        if match:
            found[match[1]] = match[2].strip().strip("'\"")
    return found


def card_problems(card: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Errors, with which a card is refused, and warnings."""
    if card.startswith("---") and front_matter(card) is None:
        return [{"message": "The metadata has no end: a line with --- is missing"}], []
    lines = front_matter(card)
    if not lines:
        return [], [{"message": "empty or missing yaml metadata in repo card"}]
    errors = []
    keys = [match[1] for line in lines if (match := re.match(r"([^\s#:-][^:]*):(\s|$)", line))]
    errors += [f"duplicated mapping key: {key}" for key in sorted({key for key in keys if keys.count(key) > 1})]
    errors += [f"tab characters must not be used in indentation: {line!r}" for line in lines if line.startswith("\t")]
    licence = card_values(card.encode()).get("license")
    if licence is not None and not _LICENCE.fullmatch(licence):
        errors.append(f'"license" must be an identifier, got {licence}')
    return [{"message": message} for message in errors], []
