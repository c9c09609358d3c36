import random

import pytest
from river import drift

from monitors.detectors import DetectorStateError, SequentialDetector


def series(seed: int) -> list[float]:
    source = random.Random(seed)
    return [source.random() < (0.2 if i < 500 else 0.6) for i in range(1000)]


@pytest.mark.parametrize(
    ("name", "parameters", "raw"),
    [("adwin", {}, drift.ADWIN()), ("page_hinkley", {"threshold": 10}, drift.PageHinkley(threshold=10))],
)
def test_first_change_is_rivers(name, parameters, raw):
    detector = SequentialDetector(name, parameters)
    expected = next(i for i, value in enumerate(series(1)) if raw.update(value) or raw.drift_detected)
    found = [i for i, value in enumerate(series(1)) if detector.update(value)]
    assert found[0] == expected
    assert 500 < found[0] < 620


@pytest.mark.parametrize("cut", [0, 100, 505, 560, 900])
def test_a_restored_detector_goes_on_as_if_never_stopped(cut):
    whole, values = SequentialDetector("adwin", {"clock": 1}), series(2)
    expected = [i for i, value in enumerate(values) if whole.update(value)]
    first = SequentialDetector("adwin", {"clock": 1})
    found = [i for i, value in enumerate(values[:cut]) if first.update(value)]
    second = SequentialDetector.from_bytes(first.to_bytes())
    found += [cut + i for i, value in enumerate(values[cut:]) if second.update(value)]
    assert found == expected != []
    assert second.to_bytes() == whole.to_bytes()


def test_what_is_no_detector_is_refused():
    with pytest.raises(DetectorStateError, match="adwin, page_hinkley"):
        SequentialDetector("ddm")
    with pytest.raises(DetectorStateError, match="expected the state of a detector"):
        SequentialDetector.from_bytes(b"\x80\x04pickle")
