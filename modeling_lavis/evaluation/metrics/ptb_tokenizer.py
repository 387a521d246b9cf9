# SPDX-License-Identifier: Apache-2.0
"""Penn Treebank tokens of captions, as COCO caption evaluation makes them.

COCO's tool runs Stanford's PTBTokenizer (version 3.4.1, Java) with lower-casing over all sentences in one file, and
removes punctuation. This is an implementation of its own, written from the tool's answers to many sentences. As there,
the longest match at a position wins (with the text that a rule looks ahead at), the first rule among equals.
"""

import re
from collections.abc import Callable, Sequence

from .ptb_characters import LETTERS, SYMBOLS, character_class

#: Tokens that COCO's tool removes. Brackets stay: it looks for "-LRB-" after lower-casing, and does not find it.
PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", "--", "...", *".?!,:;-"])

# Abbreviations that keep their period before anything; before anything but a letter; before a number.
_ANYWHERE = """
    al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga
    inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt sep
    sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
"""
_ANYWHERE_CAPITALIZED = "ark az del ill la mass miss ore pa tex wash"
_ANYWHERE_NOT_UPPER = "ppte pptes ppty pptys pte ptes pty ptys"
_BEFORE_NO_LETTER = """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov govs
    hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps rev sen sens sfc
    sgt spc st ste supt supts treas vs wm
"""
_BEFORE_NO_LETTER_NOT_UPPER = "mfg mtg"
_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# Words after which a single letter is the end of a sentence, and not an initial: "plan B. The ...".
_SENTENCE_STARTS = """
    A About According Additionally After An As At But He Her Here However If In It Last Many More Now Once One Other Our
    She Since So Some Such That The Their Then There These They This We What When While Yet You
"""

_L = character_class(LETTERS) + "A-Za-z"
_SOFT = "\xad"  # soft hyphen: part of a word, and dropped from it
_SPACE = r" \t\xa0\u2000-\u200a\u3000"
_QUOTE = "['\u2019]|&apos;"  # apostrophe
_ANY_QUOTE = f"(?:{_QUOTE}|[`\u2018\u201b\x91\x92])"
_NOT_LETTER = r"(?![A-Za-z])"
_URL = r"[^ \t\n\"<>|(){}]"
_URL_END = r"[^ \t\n\"<>|(){}.?!,\-]"
_URL_PATH = rf"(?:/[^ \t\n\"<>|()]+{_URL_END})?"
_MAIL_LABEL = r"[^ \t\n\"<>|(){}.]"
_FILE_TYPES = (
    "bat bmp class cgi cpp dll docx doc exe gif gz html htm jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar txt "
    "wav xml zip c h x"
)

Handler = Callable[[str], list[str]]


def _one(text: str) -> list[str]:
    return [text]


def _spaced(text: str) -> list[str]:
    """A token with spaces in it, which the tool makes non-breaking."""
    return [re.sub(rf"[{_SPACE}\n]", "\xa0", text)]


def _bracketed(text: str) -> list[str]:
    return [text.replace("(", "-LRB-").replace(")", "-RRB-")]


def _straight(text: str) -> list[str]:
    """A contraction with a typewriter apostrophe."""
    return [re.sub("\u2019|&apos;", "'", text).replace("\u2018", "`")]


def _split_at(position: int) -> Handler:
    return lambda text: [text[:position], text[position:]]


def _always(token: str) -> Handler:
    return lambda text: [token]


def _words(names: str, *cases: str) -> str:
    """Alternatives of words, each in the given cases."""
    forms = {getattr(name, case)() for name in names.split() for case in cases}
    return "|".join(sorted(forms, key=len, reverse=True))


_CASES = ("lower", "capitalize", "upper")
_LETTER = rf"(?:[{_L}{_SOFT}]|&[AEIOUaeiou](?:acute|grave|uml);)"
_WORD_CHARACTER = rf"(?:{_LETTER}|[0-9])"
_WORD = rf"(?:(?![0-9]){_WORD_CHARACTER}+|[0-9](?:(?!{_SOFT}){_WORD_CHARACTER})*)"
_PREFIXED_WORD = rf"(?:[dloDLO]{_ANY_QUOTE}{_WORD_CHARACTER}{{2,}}|{_WORD})"  # o'clock, d'Or
_DOTTED = rf"{_LETTER}{_WORD_CHARACTER}*(?:[.!?]{_LETTER}{_WORD_CHARACTER}*)*"
_NUMBER = r"(?:[0-9\xad]*(?:[.,:\xad\u066b\u066c][0-9]+)+|[0-9]+)"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_ASCII_WORD = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_.:\-]*"
_CONTRACTION = "[SsMmDd]|[Ll][Ll]|[Rr][Ee]|[Vv][Ee]"

# Each rule: a regular expression, and how its match becomes tokens. A group "ahead" must follow the token and counts for
# the length, but is not part of it.
_RULES: list[tuple[str, Handler]] = [
    # markup and entities
    (rf"<{_TAG_NAME}(?: +{_TAG_NAME}(?: *= *(?:\"[^\"\n]*\"|'[^'\n]*'))?)* */?>|</{_TAG_NAME} *>", _spaced),
    (r"<![A-Za-z\-][^>\n]*>|<\?[A-Za-z][^>\n]*>", _spaced),
    (r"&(?i:amp);", _always("&")),
    (r"&(?i:lt);", _always("<")),
    (r"&(?i:gt);", _always(">")),
    (r"&(?i:nbsp);", lambda text: []),
    (r"&(?:mdash|ndash|MD|md);", _always("--")),
    (r"&(?:#[0-9]+|(?i:tl|ur|ht));", _one),
    # contractions
    (r"(?i:cannot|gonna|gotta|lemme|gimme|wanna)", _split_at(3)),
    (r"'[Tt](?P<ahead>(?i:is|was))", _one),
    (rf"[A-Za-z\xad]*[A-MO-Za-mo-z\xad](?P<ahead>[Nn]{_ANY_QUOTE}[Tt])", _one),
    (rf"[Nn]{_ANY_QUOTE}[Tt]{_NOT_LETTER}", _straight),
    (rf"{_WORD}(?P<ahead>(?:{_QUOTE})(?:{_CONTRACTION}))", _one),
    (rf"(?:{_QUOTE})(?:{_CONTRACTION}){_NOT_LETTER}|\u2019(?:{_CONTRACTION})", _straight),
    # words
    (_WORD, _one),
    (_DOTTED, _one),
    # abbreviations
    (rf"{_ACRONYM}\.(?![{_L}])", _one),
    (rf"[A-Za-z]\.(?![{_L}]|[{_SPACE}\n]+(?:{_words(_SENTENCE_STARTS, 'title', 'upper')}|M[rs]\.)[{_SPACE}\n])", _one),
    (rf"(?:{_words(_ANYWHERE, *_CASES)}|{_words(_ANYWHERE_CAPITALIZED, 'title', 'upper')})\.(?P<ahead>(?s:.){{1,2}})?", _one),
    (rf"(?:{_words(_ANYWHERE_NOT_UPPER, 'lower', 'title')})\.(?P<ahead>(?s:.){{1,2}})?", _one),
    (r"(?i:ph\.d)\.(?P<ahead>(?s:.){1,2})?", _one),
    (rf"(?:{_words(_BEFORE_NO_LETTER, *_CASES)}|{_words(_BEFORE_NO_LETTER_NOT_UPPER, 'lower', 'title')})\.(?![{_L}])", _one),
    (rf"(?:{_words(_BEFORE_NUMBER, *_CASES)})\.(?P<ahead>[{_SPACE}\n]?[0-9])", _one),
    (rf"(?:{_DOTTED}|{_PREFIXED_WORD}(?:[\-_]{_PREFIXED_WORD})*)\.(?P<ahead>[,;:])", _one),
    (rf"(?!\xad){_PREFIXED_WORD}(?:[\-_\u058a\u2010\u2011]{_PREFIXED_WORD})+", _one),
    (rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\xad]+))+", _one),
    (rf"{_ASCII_WORD}(?:/{_ASCII_WORD}){{1,2}}", _one),
    (rf"(?!\xad){_PREFIXED_WORD}", _one),
    (rf"(?:n|[A-HJ-XZ]){_ANY_QUOTE}{_LETTER}{{2,}}", _one),
    (rf"(?!\xad){_LETTER}+[aeiouyAEIOUY]{_ANY_QUOTE}[aeiouA-Z]{_LETTER}*", _one),
    (rf"(?:{_QUOTE})(?:[Nn](?:{_QUOTE})|[Ee][Mm]|[Tt]ill?|[Cc]ause)|'[Nn](?P<ahead>[{_SPACE}\n])|\u2019[Nn]", _one),
    (r"(?i:o'clock|li'l|c'mon|cap'n|ma'am|ne'er|o'er|e'er|s'mores|d'ye|qu'il|dunkin')", _one),
    (rf"[Oo][Ll](?:{_QUOTE})|[DdJjLl](?:{_QUOTE})|[Yy](?:{_QUOTE})(?P<ahead>{_LETTER})", _one),
    # numbers
    (rf"[+\-]?{_NUMBER}", _one),
    (r"(?:[0-9]{1,4}[ \xa0\-])?[0-9]{1,4}[/\u2044][0-9]{1,4}", _spaced),
    (r"[0-9]{1,2}[/\-][0-9]{1,2}[/\-][0-9]{2,4}", _one),
    (
        r"(?:\+?[0-9]{2,4}[ \xa0\-])?(?:\([0-9]{2,4}\)[ \xa0]?|\+?[0-9]{2,4}[ \xa0\-])[0-9]{3,4}[ \xa0\-]?[0-9]{3,5}",
        lambda text: [_spaced(text)[0].replace("(", "-LRB-").replace(")", "-RRB-")],
    ),
    (rf"(?:{_QUOTE})[0-9]0[Ss]|(?:{_QUOTE})[0-9][0-9](?P<ahead>[{_SPACE}\n])", _one),
    (r"[A-Z]*\$", _one),
    (r"[\u20ac\u20a0\xa4\x80]", _always("$")),
    (r"\xa3", _always("#")),
    (r"\xa2", _always("cents")),
    (r"\xbc", _always("1/4")),
    (r"\xbd", _always("1/2")),
    (r"\xbe", _always("3/4")),
    (r"\u2153", _always("1/3")),
    (r"\u2154", _always("2/3")),
    # addresses
    (rf"(?i:https?)://{_URL}+{_URL_END}", _one),
    (rf"(?i:www)\.(?:[^ \t\n\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}{_URL_PATH}", _one),
    (rf"(?:[^ \t\n!\"$'(),\-./0-9:;<=>?@A-Z\[\\\]^_`{{|}}]+\.)+(?i:com|net|org|edu){_URL_PATH}", _one),
    (rf"(?:<|&lt;)?[A-Za-z0-9]{_URL}*@(?:{_MAIL_LABEL}+\.)*{_MAIL_LABEL}+>?", _one),
    (r"@[A-Za-z_][A-Za-z_0-9]*", _one),
    (rf"#{_LETTER}+", _one),
    (rf"{_WORD}(?:\.{_WORD})*\.(?i:{_FILE_TYPES.replace(' ', '|')})(?P<ahead>[{_SPACE}\n.?!,])", _one),
    # emoticons
    (r"[<>]?[:;=][\-o*']?[()DPdpO@{|\\\[\]](?![A-Za-z0-9])", _bracketed),
    (r"\(?[\-^x=~<>'][_][\-^x=~<>']\)?", _bracketed),
    # letters with signs
    (r"[A-Z]+(?:[&+][A-Z]+)+", _one),
    (r"[A-Z]+(?:&(?i:amp);[A-Z]+)+", lambda text: [re.sub("&(?i:amp);", "&", text)]),
    (r"[Cc]\+\+|[CcFf]#", _one),
    # brackets, quotes and dashes
    (r"\(", _always("-LRB-")),
    (r"\)", _always("-RRB-")),
    (r"\[", _always("-LSB-")),
    (r"\]", _always("-RSB-")),
    (r"\{", _always("-LCB-")),
    (r"\}", _always("-RCB-")),
    (r"-(?i:[LR][RCS]B)-", _one),
    (r"\"|&quot;|''|``|'|`|&apos;", lambda text: ["''"]),
    (r"[`\u2018-\u201f\u2039\u203a\x91-\x94\xab\xbb]{1,2}", lambda text: [text.translate(_QUOTES)]),
    (r"-{2,4}", _always("--")),
    (r"-{5,}", _one),
    (r"[\u2013-\u2015\x96\x97]", _always("--")),
    (r"\.{3,5}|\u2026", _always("...")),
    (r"[?!]+|\*+|#+|@+|_+|<<|>>|\\\*", _one),
    (r"\xad", _always("-")),
    (rf"[!-/:-@\[-`{{-~{character_class(SYMBOLS)}]", _one),
    (r"[\u058a\u2010\u2011]", lambda text: []),
]
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u2018\u201b\u2039\x91", "`"),
        **dict.fromkeys("\u2019\u203a\x92", "'"),
        **dict.fromkeys("\u201c\xab\x93", "``"),
        **dict.fromkeys("\u201d\xbb\x94", "''"),
    }
)
_COMPILED = [(re.compile(pattern), handler) for pattern, handler in _RULES]

_LINE_BREAK = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]")
# The bulk of captions: a word of ASCII letters before a space, perhaps with a comma or a period.
_PLAIN_WORD = re.compile(r"([A-Za-z]{2,}|[A-Za-z](?=[ \n]))(?=([,.]?)(?:[ \n]|\Z))")
_NOT_PLAIN = frozenset("cannot gonna gotta lemme gimme wanna".split())
_WITH_PERIOD = frozenset(
    " ".join(
        (_ANYWHERE, _ANYWHERE_CAPITALIZED, _ANYWHERE_NOT_UPPER, _BEFORE_NO_LETTER, _BEFORE_NO_LETTER_NOT_UPPER, _BEFORE_NUMBER)
    ).split()
)


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """
    Penn Treebank tokens of captions, as COCO caption evaluation makes them with Stanford's PTBTokenizer 3.4.1: `"isn't"`
    is `"is n't"`, `"(photo)"` is `"-lrb- photo -rrb-"`, `"$5.50"` is `"$ 5.50"`.

    As in the original tool, the last word of a sentence can depend on the next sentence: a single letter keeps its period
    ("plan b.") unless the next word begins a sentence ("The").

    Args:
        captions (sequence of `str`): sentences, in the order in which they are evaluated. Line breaks count as spaces.

    Returns:
        `list[str]`: the tokens of each sentence, in lower case, without punctuation, joined by spaces.

    Raises:
        ValueError: If a caption is no `str`.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions is a single str ({captions[:40]!r}); expected a sequence of them.")
    for row, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"Caption {row} is of type {type(caption).__name__}; expected str.")
    # parity: all sentences are one text, because the tool looks at the first word of the next one
    text = "\n".join(_LINE_BREAK.sub(" ", caption) for caption in captions)
    lines = _tokenize(text) if captions else []
    return [
        " ".join(token for token in " ".join(tokens).rstrip().split(" ") if token not in PUNCTUATION)
        for tokens in lines
    ]


def _tokenize(text: str) -> list[list[str]]:
    """Tokens of each line of a text, in lower case."""
    lines: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        if text[position] == "\n":
            lines.append([])
            position += 1
            continue
        if text[position] == " ":
            position += 1
            continue
        plain = _PLAIN_WORD.match(text, position)
        if plain:
            word = plain[1].lower()
            if word not in _NOT_PLAIN and not (plain[2] == "." and word in _WITH_PERIOD):
                lines[-1].append(word)
                position = plain.end()
                continue
        position, tokens = _longest_match(text, position)
        lines[-1].extend(token.lower() for token in tokens)
    return lines


def _longest_match(text: str, position: int) -> tuple[int, list[str]]:
    """End and tokens of the longest match at a position; a character that no rule knows is skipped."""
    longest, end, handler = 0, position, None
    for pattern, candidate in _COMPILED:
        match = pattern.match(text, position)
        if match and len(match[0]) > longest:
            longest, handler = len(match[0]), candidate
            end = match.start("ahead") if "ahead" in pattern.groupindex and match["ahead"] else match.end()
    if handler is None:
        return position + 1, []
    return end, [token if token[0] == "#" or "@" in token or "//" in token else token.replace("\xad", "") or "-" for token in handler(text[position:end])]


__all__ = ["tokenize_captions"]
