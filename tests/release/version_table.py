"""The README's table of tested versions: the lowest set from `lowest.txt`, the newest from an environment.

`python -m tests.release.version_table` writes it into the README, with the versions of the environment that runs it;
docs/release.md says when.
"""

import importlib.metadata
import platform

from tests.release.agreement import LOWEST, ROOT, pins

README = ROOT / "README.md"
START = "<!-- tested versions: made by tests/release/version_table.py -->\n\n"
END = "\n<!-- end of the tested versions -->"
#: what stands in the table: the dependencies, and the optional packages that many people use
PACKAGES = (
    "torch",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "pillow",
    "accelerate",
    "peft",
    "datasets",
    "timm",
)


def lowest() -> list[str]:
    """Python and the versions of `PACKAGES` in the lowest set."""
    text = LOWEST.read_text(encoding="utf-8")
    versions = pins(text)
    python = next(
        line.partition("Python ")[2].strip(" .") for line in text.splitlines() if line.startswith("# Python ")
    )
    return [python, *(versions[name] for name in PACKAGES)]


def newest() -> list[str]:
    """Python and the versions of `PACKAGES` in the environment that runs this."""
    python = ".".join(platform.python_version_tuple()[:2])
    return [python, *(importlib.metadata.version(name).partition("+")[0] for name in PACKAGES)]


def table(first: list[str], last: list[str]) -> str:
    """The table, without the markers around it."""
    lines = ["| | lowest | newest |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {low} | {high} |" for name, low, high in zip(("Python", *PACKAGES), first, last, strict=True)
    ]
    return "\n".join(lines) + "\n"


def current() -> tuple[list[str], list[str]]:
    """The columns of the table that stands in the README."""
    text = README.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]
    if [row[0] for row in rows] != ["Python", *PACKAGES]:
        raise ValueError(f"The README's table of versions has the rows {[row[0] for row in rows]}.")
    return [row[1] for row in rows], [row[2] for row in rows]


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    README.write_text(before + START + table(lowest(), newest()) + END + rest.split(END)[1], encoding="utf-8")
