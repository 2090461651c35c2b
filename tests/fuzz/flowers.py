"""Strategies for bodies: flowers in JSON, well-formed and otherwise."""

import gzip
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

MEASURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
MARK = "31337"
"""In every value that does not fit, so that an echo of one shows. No name and no measure has it."""

_SPELLINGS = ("1e2", "0.51E+1", "99.99999999999999", "7", "1E-0", "5e-324", "0.1" + "0" * 400 + "1")
_MISFITS = (
    *(f"{MARK}", f"-{MARK}.25", f"{MARK}e300", f"1e{MARK}", f"-1e{MARK}", f"1e-{MARK}"),
    *(MARK * 200, f"0{MARK}", f"0x{MARK}", f"{MARK}.", f".{MARK}", f"+{MARK}", f"{MARK}_0"),
    *(f'"{MARK}"', f'["{MARK}"]', f'{{"{MARK}": 1}}', rf'"{MARK}\ud800"', rf'"{MARK}\u0000"'),
    *(f'"{MARK}', f"'{MARK}'", f"/*{MARK}*/5", f"NaN{MARK}", "NaN", "-Infinity", "null", "true"),
)
_NAMES = (
    "colour",
    "reference",
    "",
    "__class__",
    "sepal_length ",
    "SEPAL_LENGTH",
    r"\ud800",
    r"\u0000",
    "x" * 999,
)
_CODECS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037")

Token = st.SearchStrategy[str]


def _numbers() -> Token:
    measures = st.floats(0, 100, exclude_min=True).map(repr).filter(lambda text: MARK not in text)
    return measures | st.sampled_from(_SPELLINGS)


def _misfits() -> Token:
    texts = st.text(max_size=20).map(lambda text: json.dumps(MARK + text))
    return st.sampled_from(_MISFITS) | texts


@st.composite
def good_flowers(draw: st.DrawFn) -> str:
    """A flower that fits, in any order and spelling; of a name given twice the last one counts."""
    fields = [(name, draw(_numbers())) for name in draw(st.permutations(MEASURES))]
    if draw(st.integers(0, 4)) == 0:
        fields.append((fields[0][0], draw(_numbers())))
    return _object(fields, draw(st.sampled_from(("", " ", "\r\n\t"))))


def references() -> Token:
    """The caller's own names for samples."""
    letters = st.characters(codec="utf-8", exclude_categories=["Cc"])
    return st.text(letters, min_size=1, max_size=20).filter(lambda text: text == text.strip())


@st.composite
def good_items(draw: st.DrawFn) -> str:
    """A flower of a batch, some with a reference."""
    flower = draw(good_flowers())
    reference = draw(st.none() | references())
    return flower if reference is None else f'{{"reference": {json.dumps(reference)},{flower[1:]}'


@st.composite
def bad_flowers(draw: st.DrawFn) -> str:
    """A flower with something about it."""
    tokens = st.one_of(_numbers(), _misfits())
    fields = [(name, draw(tokens)) for name in draw(st.permutations(MEASURES))]
    match draw(st.sampled_from(("as it is", "less", "more", "twice"))):
        case "less":
            fields.pop()
        case "more":
            fields.append((draw(st.sampled_from(_NAMES)), draw(tokens)))
        case "twice":
            fields.append((fields[0][0], draw(tokens)))
    return _object(fields, "")


def _object(fields: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f'{space}"{name}"{space}:{token}' for name, token in fields) + space + "}"


def flowers() -> Token:
    return good_flowers() | bad_flowers()


def batches() -> Token:
    """Good ones, and ones of which some may be bad, and not quite batches."""
    good = st.lists(good_items(), min_size=1, max_size=12)
    mixed = st.lists(good_items() | bad_flowers(), max_size=4)
    wrappings = ('{"items": [%s]}', "[%s]", '{"items": [%s], "more": 1}', '{"items": {"a": [%s]}}')
    return st.one_of(
        good.map(", ".join).map('{{"items": [{}]}}'.format),
        st.builds(
            lambda items, wrapping: wrapping.replace("%s", ", ".join(items)),
            mixed,
            st.sampled_from(wrappings),
        ),
    )


BODIES: dict[str, Token] = {"/predict": flowers(), "/predict/batch": batches()}
GOOD: dict[str, Token] = {
    "/predict": good_flowers(),
    "/predict/batch": good_items().map('{{"items": [{}]}}'.format),
}


@st.composite
def harmed(draw: st.DrawFn, texts: Token) -> bytes:
    """The bytes of a text, or what is left of them."""
    body = draw(texts).encode()
    place = draw(st.integers(0, len(body)))
    harms: dict[str, Callable[[], bytes]] = {
        "cut off": lambda: body[:place],
        "cut out": lambda: body[:place] + body[place + 1 :],
        "replaced": lambda: (
            body[:place] + draw(st.binary(min_size=1, max_size=3)) + body[place + 1 :]
        ),
        "twice": lambda: body + body,
        "recoded": lambda: body.decode().encode(draw(st.sampled_from(_CODECS))),
        "compressed": lambda: gzip.compress(body, mtime=0),
    }
    return harms[draw(st.sampled_from(sorted(harms)))]()


Row = tuple[float | str | None, ...]
"""The measures, and the reference."""


def rows_of(body: bytes, reference: str | None = None) -> list[Row]:
    """The rows that an accepted body stands for, as Python's own parser reads it.

    Only a single flower has the reference of the request's head.
    """
    value: Any = json.loads(body)
    items = value.get("items", [value | {"reference": reference}])
    return [(*(float(item[name]) for name in MEASURES), item.get("reference")) for item in items]
