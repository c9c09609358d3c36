"""When a key has rows, as ClickHouse SQL: the second half of what :mod:`features.compiler.definition` says of rows."""

from features.compiler.definition import Definition

__all__ = ["multiple", "row_times"]

Span = tuple[int, int]  # window and slide, in tiles


def row_times(meaning: Definition, held: str = "hw_tile") -> tuple[list[str], str]:
    """When a key has rows from an active tile until its next, as an array; and what to compute before it.

    All in tiles. After the tile n, a feature of window w and slide s has rows at the multiples of s in (n, n + w): its
    window holds the tile at the row before, whichever that is. It has one more at the first multiple e >= n + w, which
    finds the window empty, unless a row of another feature in [n + w, e) has found so before. That one may itself be
    such a last row; so the question is answered in order of e, by asking it as often as there are features.

    Of a table that changes, windows are filled at n by the tile m <= n of the newest row that stands, and perhaps by
    none: then the multiples are those in (n, m + w), and a window with m + w <= n asks for no more rows.

    Parameters
    ----------
    meaning : Definition
    held : str
        Column of m; ``hw_tile`` where that is n.

    Returns
    -------
    list of str, str
        Stages of columns, each from those before; and the array, from all of them. They read ``hw_tile``, n, and
        ``hw_next``, the key's next active tile.
    """
    hop = meaning.hop_ms
    spans = sorted({(each.window_ms // hop, each.slide_ms // hop) for each in meaning.features})
    stages = [", ".join(f"{multiple(_end(each, held), each[1])} AS {_last(at)}" for at, each in enumerate(spans))]
    asked, answers = _questions(spans, held)
    parts = ["[hw_tile]"]
    for slide in sorted({slide for _, slide in spans}):
        longest = max(window for window, each in spans if each == slide)
        parts.append(f"range({multiple('hw_tile + 1', slide)}, least({held} + {longest}, hw_next), {slide})")
    for at in range(len(spans)):
        parts.append(f"if({answers[at]} AND {_last(at)} < hw_next, [{_last(at)}], [])")
    return stages + asked, f"arrayDistinct(arrayConcat({', '.join(parts)}))"


def multiple(number: str, of: int) -> str:
    """SQL for the first multiple that is not less than a number."""
    return f"toInt64({number} + positiveModulo(-({number}), {of}))" if of > 1 else f"toInt64({number})"


def _questions(spans: list[Span], held: str) -> tuple[list[str], dict[int, str]]:
    """Whether a feature has its last row: stages of columns, and the column that knows in the end."""
    # Whether its window holds anything at n, which that tile itself is.
    there = ["1" if held == "hw_tile" else f"{_end(each, held)} > hw_tile" for each in spans]
    answers = {at: f"({each})" for at, each in enumerate(there)}
    # A window that ends on a slide wherever it starts has nothing between the two.
    unsure = [at for at, (_, slide) in enumerate(spans) if slide > 1] if len(spans) > 1 else []
    stages = []
    for turn in range(len(unsure) + 1 if unsure else 0):
        found = []
        for at in unsure:
            others = [other for other in range(len(spans)) if other != at]
            if turn == 0:  # the regular rows of others, which do not depend on any last row
                regular = " OR ".join(_regular(spans, at, each, held) for each in others)
                found.append(f"{there[at]} AND NOT ({regular}) AS hw_x{at}_0")
                continue
            before = [
                f"({answers[each]} AND {_last(each)} >= {_end(spans[at], held)} AND {_last(each)} < {_last(at)})"
                for each in others
            ]
            found.append(f"hw_x{at}_0 AND NOT ({' OR '.join(before)}) AS hw_x{at}_{turn}")
        stages.append(", ".join(found))
        answers |= {at: f"hw_x{at}_{turn}" for at in unsure}
    return stages, answers


def _regular(spans: list[Span], at: int, other: int, held: str) -> str:
    """Whether another feature has a row while its window holds the tile, after this one's has lost it."""
    return f"{multiple(_end(spans[at], held), spans[other][1])} < least({_last(at)}, {_end(spans[other], held)})"


def _end(span: Span, held: str) -> str:
    return f"{held} + {span[0]}"


def _last(at: int) -> str:
    return f"hw_e{at}"
