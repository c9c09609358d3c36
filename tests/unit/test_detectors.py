import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from monitors import detectors
from monitors.detectors import DETECTORS, SCALES, DetectorStateError, SequentialDetector
from monitors.sequential import HOURLY

# Small enough windows for a few hundred values.
QUICK = {
    "adwin": {"clock": 1},
    "ddm": {},
    "eddm": {"alpha": 0.9, "beta": 0.8},
    "hddm_a": {"drift_confidence": 0.05},
    "hddm_w": {"drift_confidence": 0.05},
    "kswin": {"alpha": 0.001, "window_size": 60, "stat_size": 20},
    "page_hinkley": {"threshold": 5.0},
}
WEEK = 7 * 24


def series(seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.random() < (0.2 if i < 500 else 0.6) for i in range(1000)]


def hours(seed: int, *means: float, length: int = 4 * WEEK) -> list[float]:
    """Means of hours, that many of each."""
    source = random.Random(seed)
    return [mean + source.gauss(0, 0.04) for mean in means for _ in range(length)]


@pytest.mark.parametrize(
    ("name", "parameters", "raw"),
    [
        ("adwin", {}, drift.ADWIN()),
        ("ddm", {}, drift.binary.DDM()),
        ("eddm", QUICK["eddm"], drift.binary.EDDM(**QUICK["eddm"])),
        ("hddm_a", {}, drift.binary.HDDM_A()),
        ("hddm_w", {}, drift.binary.HDDM_W()),
        ("kswin", {"alpha": 1e-3}, drift.KSWIN(alpha=1e-3, seed=0)),
        ("page_hinkley", {"threshold": 10}, drift.PageHinkley(threshold=10, mode="up")),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_first_change_is_rivers(name, parameters, raw):
    # ADWIN goes by the newest value alone to say which way: of zeros and ones that may be a zero.
    detector = SequentialDetector(name, parameters, sides=2 if name == "adwin" else 1)
    expected = next(i for i, value in enumerate(series(1)) if raw.update(value) or raw.drift_detected)
    found = [i for i, value in enumerate(series(1)) if detector.update(value)]
    assert found[0] == expected
    assert 500 < found[0] < 640


def test_those_of_the_test_above_are_all():
    assert set(DETECTORS) == set(HOURLY) == set(QUICK)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("after", [0.8, 0.2, 0.5])
def test_a_jump_is_found_within_two_weeks_and_nothing_before(name, sides, after):
    detector = SequentialDetector(name, HOURLY[name], sides, level=0.5)
    values = hours(0, 0.5, after)  # of other seeds some have a false alarm
    found = [i for i, value in enumerate(values) if detector.update(value)]
    if after == 0.5 or (after < 0.5 and sides == 1):  # nothing happens, or what does not count
        assert found == []
    else:
        assert 4 * WEEK <= found[0] < 6 * WEEK


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("sides", [1, 2])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.sets(st.integers(0, 449), min_size=1, max_size=3))
def test_restarts_do_not_show(name, sides, seed, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors, "VALUES_MAX", 220)  # one that has heard so much begins again, with restarts or without
        values = hours(seed, 0.4, 0.9, 0.1, length=150)
        whole = SequentialDetector(name, QUICK[name], sides, level=0.4)
        stopped = SequentialDetector(name, QUICK[name], sides, level=0.4)
        for i, value in enumerate(values):
            if i in cuts:
                stopped = SequentialDetector.from_bytes(stopped.to_bytes())
            assert (stopped.update(value), stopped.estimate) == (whole.update(value), whole.estimate)
        assert stopped.to_bytes() == whole.to_bytes()


def test_what_the_test_above_compares_does_fire():
    for name, parameters in QUICK.items():
        values = hours(1, 0.4, 0.9, 0.1, length=150)
        detector = SequentialDetector(name, parameters, level=0.4)
        fired = [detector.update(value) for value in values]
        assert any(fired), name


@pytest.mark.parametrize(
    ("values", "told"),
    [([0.4] * 40 + [0.6] * 19 + [0.3], ["kswin"]), ([0.6] * 40 + [0.4] * 19 + [0.9], ["adwin"])],
)
def test_which_way_a_change_went_kswins_newest_values_say_and_adwins_last_one(values, told):
    found = []
    for name in ("adwin", "kswin"):
        detector = SequentialDetector(name, QUICK[name], sides=1)
        detector._detectors = [Firing(len(values))]
        found += [name] if detector.hear(values) else []
    assert found == told


@pytest.mark.parametrize("cut", [19, 60, 61, 149])
def test_a_restored_kswin_draws_what_it_would_have_drawn(cut):
    first = SequentialDetector("kswin", QUICK["kswin"] | {"alpha": 1e-9})  # never begins again
    first.hear(hours(2, 0.4, length=cut))
    second = SequentialDetector.from_bytes(first.to_bytes())
    generators = [each._detectors[0]._rng.getstate() for each in (first, second)]
    assert generators[0] == generators[1]
    assert (generators[0] == random.Random(0).getstate()) == (cut < 60)  # it draws once its window is full


def test_the_estimate_is_the_mean_of_what_it_has_heard_since_it_began():
    detector = SequentialDetector("adwin", {"clock": 1})
    for value in hours(4, 0.5, 0.8, length=100):
        detector.update(value)
        assert detector.estimate == sum(detector.values) / len(detector.values)
    assert len(detector.values) < 110
    detector.reset()
    assert str(detector.estimate) == "nan"


def test_one_that_has_heard_much_begins_again(monkeypatch):
    monkeypatch.setattr(detectors, "VALUES_MAX", 10)
    detector = SequentialDetector("page_hinkley")
    assert not detector.hear([0.0] * 10 + [1.0])
    assert detector.estimate == 1.0


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_hddm_is_told_of_nothing_beyond_0_and_1_and_in_order(one, other):
    for scale in SCALES:
        detector = SequentialDetector("hddm_a", scale=scale)
        told = detector._detectors[0] = Listener()
        detector.hear(sorted([one, other]))
        assert 0 <= told.heard[0] <= told.heard[1] <= 1


class Listener:
    """In place of river's."""

    drift_detected = False

    def __init__(self):
        self.heard = []

    def update(self, value):
        self.heard.append(value)


class Firing(Listener):
    """Finds a change at a certain value."""

    def __init__(self, at):
        super().__init__()
        self._at = at

    @property
    def drift_detected(self):
        return len(self.heard) == self._at


def test_ddm_is_told_what_is_above_the_level_and_its_mirror_what_is_below():
    detector = SequentialDetector("ddm", level=0.3)
    above, below = detector._detectors = [Listener(), Listener()]
    detector.hear([0.1, 0.3, 0.9])
    assert above.heard == [0, 0, 1]
    assert below.heard == [1, 0, 0]
    assert len(SequentialDetector("ddm", sides=1)._detectors) == 1


def test_what_is_no_detector_is_refused():
    with pytest.raises(DetectorStateError, match="adwin, ddm, eddm, hddm_a, hddm_w, kswin, page_hinkley"):
        SequentialDetector("cusum")
    with pytest.raises(DetectorStateError, match="expected parameters of river's"):
        SequentialDetector("ddm", {"delta": 0.002})
    with pytest.raises(DetectorStateError, match="expected parameters of river's"):
        SequentialDetector("kswin", {"alpha": 2.0})
    with pytest.raises(DetectorStateError, match="expected a seed"):
        SequentialDetector("kswin", {"seed": None})
    with pytest.raises(DetectorStateError, match="scales share, loss, signed"):
        SequentialDetector("hddm_a", scale="log")
    state = json.loads(SequentialDetector("adwin").to_bytes())
    for odd in (b"\x80\x04pickle", b"[]", b'"x"', json.dumps(state | {"age": 1}).encode(), b'{"values": []}'):
        with pytest.raises(DetectorStateError, match="expected the state of a detector"):
            SequentialDetector.from_bytes(odd)
