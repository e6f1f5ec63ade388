"""Numbers in words: digits, volumes, times, as the page and its figures print them."""

import math
from numbers import Integral

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EM DASH}"
GAP = "\N{NO-BREAK SPACE}"  # between a number and its unit


def number(value: float | int | None, digits: int = 3) -> str:
    """Return a number to so many significant digits; very large and small ones as a power of ten."""
    if value is None or not math.isfinite(value):
        return NONE
    if isinstance(value, Integral):
        return str(value).replace("-", MINUS)
    size = abs(value)
    if size and not 1e-3 <= size < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} \N{MULTIPLICATION SIGN} 10{_raised(int(exponent))}".replace("-", MINUS)
    # The digits after the point follow from the rounded size: 0.9996 is 1.00, not 1.000.
    places = digits - 1 - math.floor(math.log10(float(f"{size:.{digits - 1}e}"))) if size else digits - 1
    return f"{value:.{max(places, 0)}f}".replace("-", MINUS)


def with_std(value: float, std: float | None) -> str:
    """Return a value to the last digit of its standard deviation, which is printed with two."""
    if std is None or not (math.isfinite(std) and std > 0 and math.isfinite(value)):
        return number(value)
    if not 1e-3 <= max(abs(value), std) < 1e5:
        return number(value)
    places = min(max(1 - math.floor(math.log10(float(f"{std:.1e}"))), 0), 6)
    # Adding zero turns a rounded minus zero into zero.
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Return a fraction in percent."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.1f}{GAP}%"


def volume(value: float | None) -> str:
    """Return a volume given in ml."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.0f}{GAP}ml" if value >= 100 else f"{value:.1f}{GAP}ml"


def length(value: float | None) -> str:
    """Return a length given in mm."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.1f}{GAP}mm"


def duration(seconds: float | None) -> str:
    """Return a time given in s."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.2g}{GAP}s" if seconds < 1 else f"{seconds:.1f}{GAP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{GAP}min {whole % 60:02d}{GAP}s"
    return f"{whole // 3600}{GAP}h {whole % 3600 // 60:02d}{GAP}min"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
