"""Numbers as people read them: the one place where shares, differences and p values become text."""

import math

MINUS = "\u2212"


def percent(share: float | None, *, digits: int = 1) -> str:
    """Return a share in per cent; a dash for None."""
    return "–" if share is None or math.isnan(share) else signless(100 * share, digits=digits)


def points(difference: float | None, *, digits: int = 1) -> str:
    """Return a difference of shares in percentage points, with its sign; 0.0 has none."""
    return "–" if difference is None or math.isnan(difference) else signed(100 * difference, digits=digits)


def signed(value: float, *, digits: int) -> str:
    """Return a number with its sign as typeset, +1.5 or −1.5; one that rounds to zero has no sign."""
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    return (MINUS if value < 0 else "+") + text


def signless(value: float, *, digits: int) -> str:
    """Return a number with a minus only where it is needed: what rounds to zero is never −0.0."""
    text = f"{abs(value):.{digits}f}"
    return MINUS + text if value < 0 and text.strip("0.") else text


def p_value(p: float) -> str:
    """Return a p value as papers print it."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_text(p: float) -> str:
    """Return a p value after the letter p: `= 0.040`, `< 0.001`."""
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"
