"""Classes that are mirror images by their names: mirroring a clip of one makes one of the other.

Left and right change places in a mirror, and so do the two ways of turning; up and down, open and close,
push and pull do not.
"""

import re
from collections.abc import Iterator, Sequence
from unicodedata import normalize

OPPOSITES = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
    ("cw", "ccw"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("linker", "rechter"),
    ("linken", "rechten"),
    ("gauche", "droite"),
    ("izquierda", "derecha"),
    ("izquierdo", "derecho"),
    ("esquerda", "direita"),
    ("esquerdo", "direito"),
    ("sinistra", "destra"),
    ("sinistro", "destro"),
    ("v\u00e4nster", "h\u00f6ger"),
    ("lewo", "prawo"),
    ("lewa", "prawa"),
    ("\u0432\u043b\u0435\u0432\u043e", "\u0432\u043f\u0440\u0430\u0432\u043e"),
    ("\u043b\u0435\u0432\u043e", "\u043f\u0440\u0430\u0432\u043e"),
    ("\uc67c\ucabd", "\uc624\ub978\ucabd"),
)
"""Words that a mirror exchanges, in case folded."""

SIGNS = ("\u5de6", "\u53f3")
"""Left and right in Chinese and Japanese, which put no blanks between words."""


def mirrored_pairs(classes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of classes whose names differ in nothing but words that a mirror exchanges."""
    by_words = {_words(name): name for name in classes}
    pairs = {
        (min(name, by_words[other]), max(name, by_words[other]))
        for words, name in by_words.items()
        for other in _mirrored(words)
        if other in by_words
    }
    return tuple(sorted(pairs))


def _words(name: str) -> tuple[str, ...]:
    """Split a class name at blanks, signs and the humps of CamelCase."""
    humps = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normalize("NFC", name))
    joined = re.sub(r"\b(counter|anti)[\s_-]+(?=clockwise)", r"\1", humps.replace("_", " ").casefold())
    return tuple(re.findall(rf"[{SIGNS[0]}{SIGNS[1]}]|[^\W_{SIGNS[0]}{SIGNS[1]}]+", joined))


def _mirrored(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield what a name becomes in a mirror; two words of one meaning give two forms."""
    forms = {words}
    for one, other in (*OPPOSITES, SIGNS):
        exchange = {one: other, other: one}
        for form in tuple(forms):
            forms.add(tuple(exchange.get(word, word) for word in form))
    forms.discard(words)
    yield from forms
