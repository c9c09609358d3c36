"""Which reading of its topic each view of a job belongs to, and where its rows begin.

A job that goes on from a checkpoint holds views that go on and views that begin at the start of their topics. Those
that begin together are a generation: they share a source, see :mod:`jobs.features`.
The number of a generation is never used again while a checkpoint may hold its state, so that nothing is taken for what
it is not, whichever checkpoint a job is started from.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Begun", "Letters", "following", "newest", "options"]

Offsets = Mapping[str, int]


@dataclass(frozen=True)
class Begun:
    """When a view began.

    Attributes
    ----------
    generation : int
    offsets : mapping of str to int
        Where the partitions of ``features.<view>`` ended then: rows before are of another definition.
    """

    generation: int
    offsets: Offsets = field(default_factory=dict)


@dataclass(frozen=True)
class Letters:
    """The generation of a source whose undecodable records are set aside.

    Attributes
    ----------
    topic : str
        Which it reads.
    generation : int
    """

    topic: str
    generation: int


def following(
    sources: Mapping[str, tuple[str, str]],
    begins: Collection[str],
    before: Mapping[str, Begun],
    letters: Mapping[str, Letters],
    number: int,
) -> tuple[dict[str, Begun], dict[str, Letters]]:
    """The generations of a job's views once some of them begin.

    Parameters
    ----------
    sources : mapping of str to (str, str)
        Name and topic of the source of each view, by view.
    begins : collection of str
        Views that begin; the others are among those of before.
    before, letters
        As they were.
    number : int
        Of the generation that begins.

    Returns
    -------
    views : dict of str to Begun
        Without offsets where they begin.
    letters : dict of str to Letters
        By source. The reading that sets aside goes on doing so, if need be for nothing else: another would write again
        what is there.
    """
    views = {name: Begun(number) if name in begins else before[name] for name in sources}
    found: dict[str, Letters] = {}
    for name, (source, topic) in sources.items():
        known = letters.get(source)
        if known and known.topic == topic:
            found[source] = known
        elif source not in found or views[name].generation < found[source].generation:
            found[source] = Letters(topic, views[name].generation)
    return views, found


def options(views: Mapping[str, Begun], letters: Mapping[str, Letters]) -> Iterator[str]:
    """Generations as options of ``jobs.submit``, without those that are 0."""
    for option, numbers in (
        ("--generation", {name: each.generation for name, each in views.items()}),
        ("--letters", {name: each.generation for name, each in letters.items()}),
    ):
        for name, number in numbers.items():
            if number:
                yield from (option, f"{name}={number}")


def newest(given: Sequence[str]) -> int:
    """The newest generation that options of ``jobs.submit`` name; -1 where there are none of a job."""
    numbers = [
        int(value.rpartition("=")[2]) for option, value in pairwise(given) if option in ("--generation", "--letters")
    ]
    return max(numbers, default=0 if given else -1)
