"""Numbers and names in words, for whoever reads them: times, scores, counts, sizes, files."""

from pathlib import Path


def duration(seconds: float) -> str:
    """A time in words, as exact as one wants to know it.

    Example:
        >>> duration(7.4), duration(187), duration(3725)
        ('7 s', '3 min', '1 h 02 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def percent(fraction: float | None) -> str:
    """A score for people: in percent, with one decimal.

    Example:
        >>> percent(0.7654), percent(None)
        ('76.5', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def readable(name: str) -> str:
    r"""A file's name as text: what of it is none becomes question marks.

    Example:
        >>> readable("plates-\udcff")
        'plates-?'
    """
    return name.encode("utf-8", errors="replace").decode("utf-8")


def count(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "image"), count(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def file_size(path: Path) -> str:
    """How large a file is, in kB or MB."""
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
