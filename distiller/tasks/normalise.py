"""Text → tokens in which one thing is written one way: numbers, money, times, dates, ranges, units.

"thirty days", "30-day" and "30 days" become the same tokens; so do "$5.00", "5 dollars" and "USD 5",
"9am" and "9:00 a.m.", "24th of December" and "Dec 24", "3-5 days" and "between 3 and 5 days", "two weeks" and
"14 days", "at no cost" and "free".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

_STEMMER = snowballstemmer.stemmer("english")
_ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_MONTH = "|".join([*_MONTHS, *(m[:3] for m in _MONTHS if m != "may"), "sept"])
_UNITS = {
    "sec": "second", "secs": "second", "s": "second", "min": "minute", "mins": "minute", "hr": "hour", "hrs": "hour",
    "h": "hour", "yr": "year", "yrs": "year", "m": "metre", "meter": "metre", "meters": "metre", "w": "watt",
    "gigabyte": "gb", "gigabytes": "gb", "pm": "pm",
}  # fmt: skip
_WORDS = {
    "colour": "color", "colours": "color", "metres": "metre", "cheque": "check", "programme": "program",
    "telephone": "phone", "emails": "email", "mails": "email", "mail": "email", "minimum": "least",
    "grey": "gray", "centre": "center", "socket": "port", "neighbour": "neighbor",
    "neighbours": "neighbor", "favourite": "favorite",
}  # fmt: skip
#: Stems that say the same thing about an order, a device or an account.
_SYNONYMS = {
    "wipe": "eras", "delet": "eras", "remain": "keep", "stay": "keep", "kept": "keep", "retain": "keep",
    "preserv": "keep", "surviv": "keep", "reject": "refus", "declin": "refus", "reimburs": "refund",
    "differ": "anoth", "sent": "send",
}  # fmt: skip
#: Turns of phrase of support replies, each made the plain word that a fact is written with.
_PHRASES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bimpossible\b", "not possible"),
        (r"\b(?:at|for|with) no (?:extra |additional )?(?:cost|charge|fee)\b", "free"),
        (r"\b(?:without|free of) (?:any )?(?:extra )?(?:cost|charge|fee)s?\b", "free"),
        (r"\b(?:there is |there's )?no (?:extra )?(?:cost|charge|fee)\b", "free"),
        (r"\bcosts? (?:you )?nothing\b|\bfor nothing\b", "is free"),
        (
            r"\b(?:do|does|will|would) not (?:have to |need to )?(?:pay|cost) (?:you )?(?:anything|a cent|a thing)\b",
            "free",
        ),
        (r"\b(?:do|does|will|would) not (?:have to |need to )?pay (?=for\b)", "free "),
        (r"\bpick-ups?\b", "pickup"),
        (r"\bpost ?codes?\b|\bzip(?: codes?)?\b", "postal code"),
        (r"\border (?:no\.|nr\.?|#|id\b)", "order number"),
        (r"\b(?:turn|turns|turned|turning) (\w+ \w+ |\w+ )?away\b", r"refuse \1"),
        (r"\b(?:send|sends|sent|sending) ((?:[a-z]+ ){0,3}?)back\b", r"return \1"),
        (r"\ball (?:of )?(?:your|the) money back\b", "full refund"),
        (r"\b(?:your|the) money back\b", "refund"),
        (r"\b(?:people|person|family|flat|house) next door\b", "neighbors"),
        (r"\bpay (?:in )?(?:some other|another) way\b|\banother way (?:to pay|of paying)\b", "another payment method"),
        (r"\b(?:ways?|forms?|means) (?:of payment|to pay|of paying)\b", "payment method"),
        (r"\bhalf a minute\b", "30 seconds"),
        (r"\bhalf an hour\b", "30 minutes"),
        (r"\b(?:a|one|1) year and a half\b|\b(?:one|1) and a half years\b", "18 months"),
        (r"\b(?:a )?fortnight\b", "2 weeks"),
    )
)
_PLAIN = str.maketrans("’‘“”–—_", "''\"\"-, ", "*`")
NEGATORS = frozenset({"not", "no", "never", "without", "non", "neither", "nor", "unable", "nobody", "none"})
#: Marks that part sentences and clauses in the token list.
SENTENCE, CLAUSE = "<.>", "<,>"

_CONTRACTIONS = (
    (re.compile(r"\bcan[' ]?t\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\bunfortunately\b"), " "),
)
_NUMBER = r"\d+(?:\.\d+)?"
_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?([a-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)+|[a-z0-9][\w-]*(?:\.[a-z][\w-]*)+(?:/[\w/-]*)?)"
)
_TOKEN = re.compile(r"<[.,]>|\$?\d+(?:\.\d+)*(?:\.\.\$?\d+(?:\.\d+)?)?|[a-z][a-z']*|@\d+@")


def _plain_number(text: str) -> str:
    text = text.replace(",", "")
    return text.rstrip("0").rstrip(".") if re.fullmatch(r"\d+\.\d*0+", text) else text


def _words_to_numbers(text: str) -> str:
    tens, ones = "|".join(_TENS), "|".join(w for w in _ONES if 0 < _ONES[w] < 10)
    text = re.sub(rf"\b({tens})[ -]({ones})\b", lambda m: str(_TENS[m[1]] + _ONES[m[2]]), text)
    text = re.sub(rf"\b({'|'.join([*_ONES, *_TENS])})\b", lambda m: str((_ONES | _TENS)[m[1]]), text)
    text = re.sub(r"\b(?:a|1) (?:full )?hundred\b", "100", text)
    text = re.sub(r"\b(\d) hundred\b", r"\g<1>00", text)
    text = re.sub(r"\b(\d+) thousand\b", r"\g<1>000", text)
    text = re.sub(r"\b(?:a|an) (day|week|month|year|hour|minute)\b", r"1 \1", text)
    return re.sub(
        r"\bonce\b(?! (?:the|your|you|it|we|this|that|a|an|they|i|both|all)\b)",
        "1 time",
        re.sub(r"\btwice\b", "2 times", text),
    )


def _times(text: str) -> str:
    text = re.sub(r"\bnoon\b", "12 pm", text)

    def clock(m: re.Match[str]) -> str:
        return f" {int(m[1])}:{m[2] or '00'}{m[3]} ".replace(":00", "")

    # "9 to 6 pm" keeps its first hour as a bare number: which half of the day it means is not said.
    text = re.sub(r"\b(\d{1,2})(?:[:.](\d\d))?\s?([ap]m)\b", clock, text)

    def day_clock(m: re.Match[str]) -> str:
        hour = int(m[1])
        half = "pm" if hour >= 12 else "am"
        minutes = "" if m[2] == "00" else f":{m[2]}"
        return f" {(hour - 1) % 12 + 1}{minutes}{half} "

    text = re.sub(r"\b([01]?\d|2[0-3]):([0-5]\d)(?!\d|[ap]m)\b", day_clock, text)
    return re.sub(
        r"\b(\d{1,2})(?::(\d\d))?([ap]m)\b",
        lambda m: f" {m[1]}{'h' + m[2] if m[2] else ''} clock{m[3]} ",
        text,
    )


def _dates(text: str) -> str:
    text = re.sub(rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b", lambda m: f"{m[2]} {_month(m[1])}", text)
    return re.sub(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b\.?", lambda m: f"{m[1]} {_month(m[2])}", text)


def _month(text: str) -> str:
    return next(month for month in _MONTHS if month.startswith(text[:3]))


@lru_cache(maxsize=50_000)
def tokens(text: str) -> tuple[str, ...]:
    """The normalised tokens of `text`, with marks where a sentence or a clause ends."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = text.translate(_PLAIN)
    for pattern, replacement in _CONTRACTIONS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\b([ap])\.\s?m\.?(?=\W|$)", r"\1m", text)
    for pattern, replacement in _PHRASES:
        text = pattern.sub(replacement, text)
    addresses: list[str] = []

    def keep(m: re.Match[str]) -> str:
        addresses.append(m[1].rstrip("/.-"))
        return f" @{len(addresses) - 1}@ "

    text = _ADDRESS.sub(keep, text)
    text = re.sub(r"\be-mail", "email", text)
    text = re.sub(r"\bwi-?\s?fi\b", "wifi", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = _words_to_numbers(text)
    text = _times(text)
    text = _dates(text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    text = re.sub(rf"(?:\busd ?|us\$ ?|\$ ?)({_NUMBER})", r"$\1", text)
    text = re.sub(rf"\b({_NUMBER}) ?(?:us )?(?:dollars?|usd|bucks)\b", r"$\1", text)
    text = re.sub(rf"\b({_NUMBER}) ?cents\b", lambda m: f"${float(m[1]) / 100:g}", text)
    text = re.sub(_NUMBER, lambda m: _plain_number(m[0]), text)
    text = re.sub(r"%|\bper cent\b", " percent", text)
    text = re.sub(r"\bbetween (\d[\d.]*) and (\d[\d.]*)", r"\1..\2", text)
    text = re.sub(r"(?<![$\d.])(\d[\d.]*\d|\d) ?(?:-|to|through|until) ?(?=\d)", r"\1..", text)
    text = re.sub(rf"({_NUMBER})-?([a-z]+)", r"\1 \2", text)
    text = re.sub(r"[.!?:;]+(?=\s|$)|\n+", " <.> ", text)
    text = re.sub(r",(?=\s)|\b(?:but|however|although|though|because|unless|while|whereas|otherwise)\b", " <,> ", text)
    return tuple(_finish(token, addresses) for token in _TOKEN.findall(_durations(text)))


def _durations(text: str) -> str:
    """Weeks in days and years in months (an age of 16 years stays); kinds of working days are one kind."""
    text = re.sub(r"\b(?:business|working|work|week) ?-?days?\b", "business day", text)
    text = re.sub(r"(?<![$.\d])(\d{1,2}) -?weeks?\b", lambda m: f"{7 * int(m[1])} days", text)
    return re.sub(r"(?<![$.\d])(\d|1[0-2]) -?years?\b", lambda m: f"{12 * int(m[1])} months", text)


def _finish(token: str, addresses: list[str]) -> str:
    if token.startswith("@"):
        return addresses[int(token.strip("@"))]
    if token in {SENTENCE, CLAUSE} or not token[0].isalpha():
        return token
    token = _UNITS.get(token, token)
    token = _WORDS.get(token, token).replace("'s", "").strip("'")
    if token in NEGATORS or not token:
        return token
    stem = _STEMMER.stemWord(token)
    return _SYNONYMS.get(stem, stem)
