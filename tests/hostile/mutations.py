"""Changes of valid files: bytes, JSON, and the checksums that let a changed file pass the first checks of a reader."""

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

#: (kind, position, argument); a position is taken modulo the length of the data
Edit = tuple[str, int, Any]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**48, 2**63 - 1, 2**64 - 1)
_POSITIONS = st.one_of(st.integers(0, 63), st.integers(0, 1023), st.integers(0, 2**31))


def edits(most: int = 4) -> st.SearchStrategy[list[Edit]]:
    """Strategy of changes of bytes."""
    kinds = st.one_of(
        st.tuples(st.just("set"), _POSITIONS, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("number"), _POSITIONS, st.tuples(st.sampled_from(_NUMBERS), st.sampled_from("<>"))),
        st.tuples(st.just("flip"), _POSITIONS, st.integers(0, 7)),
        st.tuples(st.just("cut"), _POSITIONS, st.integers(1, 64)),
        st.tuples(st.just("insert"), _POSITIONS, st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("repeat"), _POSITIONS, st.integers(1, 64)),
        st.tuples(st.just("truncate"), _POSITIONS, st.just(0)),
    )
    return st.lists(kinds, min_size=1, max_size=most)


def edited(data: bytes, changes: list[Edit]) -> bytes:
    """The data after changes."""
    content = bytearray(data)
    for kind, position, argument in changes:
        place = position % (len(content) + 1)
        if kind == "set":
            content[place : place + len(argument)] = argument
        elif kind == "number":
            number, order = argument
            width = next(width for width in (1, 2, 4, 8) if number < 256**width)
            content[place : place + width] = number.to_bytes(width, "little" if order == "<" else "big")
        elif kind == "flip" and content:
            content[place % len(content)] ^= 1 << argument
        elif kind == "cut":
            del content[place : place + argument]
        elif kind == "insert":
            content[place:place] = argument
        elif kind == "repeat":
            content[place:place] = content[place : place + 16] * argument
        elif kind == "truncate":
            del content[place:]
    return bytes(content)


# ---- JSON ----

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    10**9,
    2**63,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "7",
    "../../../../etc/passwd",
    "/etc/passwd",
    "http://localhost:9/x.png",
    "file:///etc/passwd",
    "a\x00b",
    "\ud800",
    "a" * 5000,
    "{{ 7 * 7 }}",
    "!!python/object/apply:os.system ['true']",
    "---\nlicense: mit\n---",
    [],
    {},
    [1, 2],
    [[[]]],
    {"a": {"b": []}},
    {"bytes": "x", "path": "../x"},
)
_NAMES = ("__class__", "to_dict", "from_pretrained", "auto_map", "attn_implementation", "x", "image", "")
json_edits = st.lists(
    st.tuples(
        st.sampled_from(("set", "set", "set", "delete", "rename", "nest", "repeat", "add")),
        st.integers(0, 2**31),
        st.integers(0, len(VALUES) - 1),
    ),
    min_size=1,
    max_size=3,
)


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or index."""
    if isinstance(values, dict):
        for name, value in list(values.items()):
            yield values, name
            yield from _places(value)
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield values, index
            yield from _places(value)


def edited_json(values: Any, changes: list[Edit]) -> Any:
    """A copy of JSON values after changes."""
    whole = [copy.deepcopy(values)]
    for kind, position, argument in changes:
        places = [(whole, 0), *_places(whole[0])]
        container, name = places[position % len(places)]
        value = copy.deepcopy(VALUES[argument])
        if kind == "set":
            container[name] = value
        elif kind == "nest":
            for _ in range(3 + argument * 20):
                container[name] = [container[name]]
        elif container is whole:
            whole[0] = value
        elif kind == "delete":
            del container[name]
        elif kind == "repeat" and isinstance(container, list):
            container += [container[name]] * min(argument, 8)
        elif isinstance(container, dict):
            new = _NAMES[argument % len(_NAMES)]
            container[new] = container.pop(name) if kind == "rename" else value
    return whole[0]


def as_json(values: Any) -> bytes:
    """JSON text; `b""` for values that nest too deeply for the writer."""
    try:
        return json.dumps(values).encode()
    except RecursionError:
        return b""


# ---- checksums and containers ----


def edited_pickle(data: bytes, changes: list[Edit]) -> bytes:
    """A checkpoint whose pickle is changed, in an archive that is whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, edited(content, changes) if name.endswith("data.pkl") else content)
    return output.getvalue()


def edited_header(data: bytes, changes: list[Edit]) -> bytes:
    """A safetensors file whose JSON header is changed, and whose length of the header is right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = as_json(edited_json(json.loads(data[8 : 8 + length]), changes))
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def with_png_checksums(data: bytes) -> bytes:
    """A PNG file whose chunks have the right checksums."""
    content, place = bytearray(data), 8
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(content):
            break
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(content)


def with_tar_checksums(data: bytes) -> bytes:
    """A tar archive whose blocks that look like headers have the right checksums."""
    content = bytearray(data)
    for place in range(0, len(content) - 511, 512):
        block = content[place : place + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            content[place + 148 : place + 156] = f"{sum(block):06o}\0 ".encode()
    return bytes(content)


FIXES: dict[str, Callable[[bytes], bytes]] = {".png": with_png_checksums, ".tar": with_tar_checksums}
