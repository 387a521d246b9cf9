# SPDX-License-Identifier: Apache-2.0
"""Rules of Penn Treebank tokens: for each kind of token a regular expression, and how its match becomes tokens.

The rules describe what Stanford's PTBTokenizer 3.4.1 does; they were found by asking it about words, signs and their
neighbours. All matches of length 0 are ignored. A group "ahead" is text after the token that the rule looks at: it
counts for the length of the match, but is not part of the token.
"""

import re
from collections.abc import Callable

from .ptb_characters import LETTERS, SYMBOLS, character_class

Handler = Callable[[str], list[str]]
Rule = tuple[str, Handler]

# ---- abbreviations, by where they keep their period ----

#: before anything
ANYWHERE = """
    al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri ga
    inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd rt sep
    sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
"""
ANYWHERE_UNLESS_LOWER = "ark az del ill la mass miss ore pa tex wash"
ANYWHERE_UNLESS_UPPER = "ppte pptes ppty pptys pte ptes pty ptys"
#: before anything but a letter
BEFORE_NO_LETTER = """
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov
    govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps rev
    sen sens sfc sgt spc st ste supt supts treas vs wm
"""
BEFORE_NO_LETTER_UNLESS_UPPER = "mfg mtg"
BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# Words before which a single letter with a period ends a sentence, and is not an initial: "plan B. The ...".
_SENTENCE_STARTS = """
    A About According Additionally After An As At But He Her Here However If In It Last Many More Now Once One Other Our
    She Since So Some Such That The Their Then There These They This We What When While Yet You
"""
#: one word that is two tokens, the first of three letters
SPLIT_WORDS = "cannot gonna gotta lemme gimme wanna"
_WORDS_WITH_APOSTROPHE = "o'clock li'l c'mon cap'n ma'am ne'er o'er e'er s'mores d'ye qu'il dunkin'"
_FILE_TYPES = """
    bat bmp class cgi cpp dll docx doc exe gif gz html htm jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar
    txt wav xml zip c h x
"""


def _words(names: str, *forms: Callable[[str], str]) -> str:
    """Alternatives of words, the longest first, each in the given forms (as it is by default)."""
    words = {form(name) for name in names.split() for form in forms or (str,)}
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


def _abbreviations(in_all_cases: str, unless_lower: str = "", unless_upper: str = "") -> str:
    both = str.title, str.upper
    words = [
        _words(in_all_cases, str.lower, *both),
        _words(unless_lower, *both),
        _words(unless_upper, str.lower, str.title),
    ]
    return f"(?:{'|'.join(filter(None, words))})"


# ---- parts of the expressions ----

_SPACE = r" \t\xa0\u2000-\u200a\u3000"
_LETTERS = character_class(LETTERS) + "A-Za-z"
_APOSTROPHE = "(?:['\u2019]|&apos;)"
_ANY_QUOTE = "(?:['\u2019`\u2018\u201b\x91\x92]|&apos;)"
# A soft hyphen (\xad) is part of a word that begins with a letter.
_LETTER = rf"(?:[{_LETTERS}\xad]|&[AEIOUaeiou](?:acute|grave|uml);)"
_CHARACTER = rf"(?:{_LETTER}|[0-9])"
_WORD = rf"(?:(?![0-9]){_CHARACTER}+|[0-9](?:(?!\xad){_CHARACTER})*)"
_DOTTED_WORD = rf"{_LETTER}{_CHARACTER}*(?:[.!?]{_LETTER}{_CHARACTER}*)*"
_PREFIXED_WORD = rf"(?:[dloDLO]{_ANY_QUOTE}{_CHARACTER}{{2,}}|{_WORD})"  # o'clock, d'Artagnan
_ASCII_WORD = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_NUMBER = r"(?:[0-9\xad]*(?:[.,:\xad\u066b\u066c][0-9]+)+|[0-9]+)"
_CONTRACTION = "(?:[SsMmDd]|[Ll][Ll]|[Rr][Ee]|[Vv][Ee])"
_NO_LETTER = r"(?![A-Za-z])"
_TWO_AHEAD = r"(?P<ahead>(?s:.){1,2})?"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_.:\-]*"
_URL = r"[^ \t\n\"<>|(){}]"
_URL_END = r"[^ \t\n\"<>|(){}.?!,\-]"
_URL_PATH = rf"(?:/[^ \t\n\"<>|()]+{_URL_END})?"
_HOST_LABEL = r"[^ \t\n!\"$'(),\-./0-9:;<=>?@A-Z\[\\\]^_`{|}]+"
_MAIL_LABEL = r"[^ \t\n\"<>|(){}.]+"

# ---- how a match becomes tokens ----


def _keep(text: str) -> list[str]:
    return [text]


def _drop(text: str) -> list[str]:
    return []


def _always(token: str) -> Handler:
    return lambda text: [token]


def _word(text: str) -> list[str]:
    """A word without soft hyphens."""
    return [text.replace("\xad", "") or "-"]


def _join_spaces(text: str) -> list[str]:
    """One token; its spaces are non-breaking, its brackets escaped."""
    text = re.sub(rf"[{_SPACE}]", "\xa0", text)
    return [text.replace("(", "-LRB-").replace(")", "-RRB-")]


def _straighten(text: str) -> list[str]:
    """A contraction with a typewriter apostrophe."""
    return [re.sub("\u2019|&apos;", "'", text).replace("\u2018", "`")]


_SIGNS = {
    "(": "-LRB-",
    ")": "-RRB-",
    "[": "-LSB-",
    "]": "-RSB-",
    "{": "-LCB-",
    "}": "-RCB-",
    **dict.fromkeys("\u20ac\u20a0\xa4\x80", "$"),
    "\xa3": "#",
    "\xa2": "cents",
    "\xbc": "1/4",
    "\xbd": "1/2",
    "\xbe": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    **dict.fromkeys("\u2013\u2014\u2015\x96\x97", "--"),
    "\u2026": "...",
    "\xad": "-",
    **dict.fromkeys("\u058a\u2010\u2011", ""),
}
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u2018\u201b\u2039\x91", "`"),
        **dict.fromkeys("\u2019\u203a\x92", "'"),
        **dict.fromkeys("\u201c\xab\x93", "``"),
        **dict.fromkeys("\u201d\xbb\x94", "''"),
    }
)

# ---- rules; the first of equally long matches wins ----

_MARKUP: list[Rule] = [
    (rf"<{_TAG_NAME}(?: +{_TAG_NAME}(?: *= *(?:\"[^\"\n]*\"|'[^'\n]*'))?)* */?>|</{_TAG_NAME} *>", _join_spaces),
    (r"<![A-Za-z\-][^>\n]*>|<\?[A-Za-z][^>\n]*>", _join_spaces),
    (r"&(?i:amp);", _always("&")),
    (r"&(?i:lt);", _always("<")),
    (r"&(?i:gt);", _always(">")),
    (r"&(?i:nbsp);", _drop),
    (r"&(?:mdash|ndash|MD|md);", _always("--")),
    (r"&(?:#[0-9]+|(?i:tl|ur|ht));", _keep),
]
_CONTRACTIONS: list[Rule] = [
    (rf"(?i:{_words(SPLIT_WORDS)})", lambda text: [text[:3], text[3:]]),
    (r"'[Tt](?P<ahead>(?i:is|was))", _keep),
    (rf"[A-Za-z\xad]*[A-MO-Za-mo-z\xad](?P<ahead>[Nn]{_ANY_QUOTE}[Tt])", _word),
    (rf"[Nn]{_ANY_QUOTE}[Tt]{_NO_LETTER}", _straighten),
    (rf"{_WORD}(?P<ahead>{_APOSTROPHE}{_CONTRACTION})", _word),
    (rf"{_APOSTROPHE}{_CONTRACTION}{_NO_LETTER}|\u2019{_CONTRACTION}", _straighten),
]
_PLAIN_WORDS: list[Rule] = [(_WORD, _word), (_DOTTED_WORD, _word)]
_WITH_PERIOD: list[Rule] = [
    (rf"{_ACRONYM}\.(?![{_LETTERS}])", _keep),
    (
        rf"[A-Za-z]\.(?![{_LETTERS}]"
        rf"|[{_SPACE}\n]+(?:{_words(_SENTENCE_STARTS, str.title, str.upper)}|M[rs]\.)[{_SPACE}\n])",
        _keep,
    ),
    (rf"{_abbreviations(ANYWHERE, ANYWHERE_UNLESS_LOWER, ANYWHERE_UNLESS_UPPER)}\.{_TWO_AHEAD}", _keep),
    (rf"(?i:ph\.d)\.{_TWO_AHEAD}", _keep),
    (rf"{_abbreviations(BEFORE_NO_LETTER, '', BEFORE_NO_LETTER_UNLESS_UPPER)}\.(?![{_LETTERS}])", _keep),
    (rf"{_abbreviations(BEFORE_NUMBER)}\.(?P<ahead>[{_SPACE}\n]?[0-9])", _keep),
    # any word before a comma, a semicolon or a colon
    (rf"(?:{_DOTTED_WORD}|{_PREFIXED_WORD}(?:[\-_]{_PREFIXED_WORD})*)\.(?P<ahead>[,;:])", _word),
]
_COMPOUNDS: list[Rule] = [
    (rf"(?!\xad){_PREFIXED_WORD}(?:[\-_\u058a\u2010\u2011]{_PREFIXED_WORD})+", _word),
    (rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\xad]+))+", _word),
    (rf"{_ASCII_WORD}(?:/{_ASCII_WORD}){{1,2}}", _keep),
    (r"[A-Z]+(?:[&+][A-Z]+)+", _keep),
    (r"[A-Z]+(?:&(?i:amp);[A-Z]+)+", lambda text: [re.sub("&(?i:amp);", "&", text)]),
    (r"[Cc]\+\+|[CcFf]#", _keep),
]
_APOSTROPHES: list[Rule] = [
    (rf"(?!\xad){_PREFIXED_WORD}", _word),
    (rf"(?:n|[A-HJ-XZ]){_ANY_QUOTE}{_LETTER}{{2,}}", _word),
    (rf"(?!\xad){_LETTER}+[aeiouyAEIOUY]{_ANY_QUOTE}[aeiouA-Z]{_LETTER}*", _word),
    (rf"{_APOSTROPHE}(?:[Nn]{_APOSTROPHE}|[Ee][Mm]|[Tt]ill?|[Cc]ause)", _keep),
    (rf"'[Nn](?P<ahead>[{_SPACE}\n])|\u2019[Nn]", _keep),
    (rf"(?i:{_words(_WORDS_WITH_APOSTROPHE)})", _keep),
    (rf"[Oo][Ll]{_APOSTROPHE}|[DdJjLl]{_APOSTROPHE}|[Yy]{_APOSTROPHE}(?P<ahead>{_LETTER})", _keep),
    (rf"{_APOSTROPHE}[0-9]0[Ss]|{_APOSTROPHE}[0-9][0-9](?P<ahead>[{_SPACE}\n])", _keep),
]
_NUMBERS: list[Rule] = [
    (rf"[+\-]?{_NUMBER}", _word),
    (r"(?:[0-9]{1,4}[ \xa0\-])?[0-9]{1,4}[/\u2044][0-9]{1,4}", _join_spaces),
    (r"[0-9]{1,2}[/\-][0-9]{1,2}[/\-][0-9]{2,4}", _keep),
    # numbers of telephones
    (
        r"(?:\+?[0-9]{2,4}[ \xa0\-])?(?:\([0-9]{2,4}\)[ \xa0]?|\+?[0-9]{2,4}[ \xa0\-])[0-9]{3,4}[ \xa0\-]?[0-9]{3,5}",
        _join_spaces,
    ),
    (r"[A-Z]*\$", _keep),
]
_ADDRESSES: list[Rule] = [
    (rf"(?i:https?)://{_URL}+{_URL_END}", _keep),
    (rf"(?i:www)\.(?:[^ \t\n\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}{_URL_PATH}", _keep),
    (rf"(?:{_HOST_LABEL}\.)+(?i:com|net|org|edu){_URL_PATH}", _keep),
    (rf"(?:<|&lt;)?[A-Za-z0-9]{_URL}*@(?:{_MAIL_LABEL}\.)*{_MAIL_LABEL}>?", _keep),
    (r"@[A-Za-z_][A-Za-z_0-9]*", _keep),
    (rf"#{_LETTER}+", _keep),
    (rf"{_WORD}(?:\.{_WORD})*\.(?i:{_words(_FILE_TYPES)})(?P<ahead>[{_SPACE}\n.?!,])", _word),
]
_PUNCTUATION: list[Rule] = [
    # emoticons
    (r"[<>]?[:;=][\-o*']?[()DPdpO@{|\\\[\]](?![A-Za-z0-9])", _join_spaces),
    (r"\(?[\-^x=~<>']_[\-^x=~<>']\)?", _join_spaces),
    (r"-(?i:[LR][RCS]B)-", _keep),
    # All straight quotes are removed in the end, so opening and closing ones are not told apart.
    (r"\"|&quot;|''|``|'|`|&apos;", _always("''")),
    (r"[`\u2018-\u201f\u2039\u203a\x91-\x94\xab\xbb]{1,2}", lambda text: [text.translate(_QUOTES)]),
    (r"-{2,4}", _always("--")),
    (r"-{5,}", _keep),
    (r"\.{3,5}", _always("...")),
    (r"[?!]+|\*+|#+|@+|_+|<<|>>|\\\*", _keep),
    (f"[{re.escape(''.join(_SIGNS))}]", lambda text: [_SIGNS[text]] if _SIGNS[text] else []),
    (rf"[!-/:-@\[-`{{-~{character_class(SYMBOLS)}]", _keep),
]
RULES = [
    *_MARKUP,
    *_CONTRACTIONS,
    *_PLAIN_WORDS,
    *_WITH_PERIOD,
    *_COMPOUNDS,
    *_APOSTROPHES,
    *_NUMBERS,
    *_ADDRESSES,
    *_PUNCTUATION,
]

__all__ = ["RULES", "SPLIT_WORDS", "Handler"]
