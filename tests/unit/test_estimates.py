"""Estimates without labels: against the rows themselves, where calibration holds and where it does not."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from monitors.estimates import MEASURES, Outcomes, chances_of, fit_tilt, histogram, tilted
from monitors.evaluate import ModelMonitor
from monitors.losses import TILE_MS, sketch_losses
from monitors.reference import ColumnSpec, Reference
from monitors.sketches import merge, sketch_batch
from monitors.thresholds import build_reference
from monitors.watchers import estimate_window

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SPECS = {"score": ColumnSpec("score")}
A_DAY = 900


def traffic(rng, days, shift=0.0, spread=1.0, tilt=(0.0, 1.0), wander=0.0):
    """Scores that mean what they say but for `tilt`, more or less separable from day to day; label, request time."""
    scores, labels, times = [], [], []
    for day in range(days):
        own = wander * rng.standard_normal(2)
        logit = -1.3 + shift + own[0] + (spread + own[1] / 4) * 1.2 * rng.standard_normal(A_DAY)
        meant = 1 / (1 + np.exp(-(tilt[0] + tilt[1] * logit)))
        scores.append(1 / (1 + np.exp(-logit)))
        labels.append(rng.random(A_DAY) < meant)
        times.append(day * DAY_MS + np.sort(rng.integers(0, DAY_MS, A_DAY)))
    return np.concatenate(scores), np.concatenate(labels).astype(int), np.concatenate(times)


def sketched(scores, labels, times):
    days = sketch_batch({"score": scores}, {"score": "score"}, times, TILE_MS).coarsen(DAY_MS)
    return days, sketch_losses(scores, labels, times + HOUR_MS)


def reference(rng, days=35, **kwargs) -> Reference:
    scores, labels, times = traffic(rng, days, **kwargs)
    features = sketch_batch({"score": scores}, {"score": "score"}, times, TILE_MS)
    return build_reference("m", "1", SPECS, features, sketch_losses(scores, labels, times + HOUR_MS), seed=1)


def estimated(usual, rows, known=1.0):
    """By measure, of a week whose labels have come up to a share."""
    days, losses = sketched(*rows)
    some = losses.between(0, round(known * 8 * DAY_MS)) if known else None
    return {each.measure: each for each in estimate_window(days, some, usual, 1000)[1]}


def realised(scores, labels):
    return {
        "auc": roc_auc_score(labels, scores),
        "log_loss": log_loss(labels, scores),
        "accuracy": accuracy_score(labels, scores >= 0.5),
        "f1": f1_score(labels, scores >= 0.5),
    }


def test_measures_of_a_histogram_are_those_of_the_rows():
    scores, labels, times = traffic(np.random.default_rng(0), 7)
    found = Outcomes.of(sketch_losses(scores, labels, times))
    assert found.total == len(scores)
    for name, exact in realised(scores, labels).items():
        # A bin is 1/128 wide: two scores in one count as a tie, and a log loss is of the bin's middle.
        assert float(MEASURES[name](found)) == pytest.approx(exact, abs=2e-3), name


def test_of_either_outcome_alone_there_is_no_auc():
    scores, _, times = traffic(np.random.default_rng(0), 7)
    found = Outcomes.of(sketch_losses(scores, np.zeros(len(scores)), times))
    assert np.isnan(MEASURES["auc"](found))
    assert MEASURES["accuracy"](found) > 0


def test_chances_rise_and_are_the_shares_where_those_rise():
    positives, negatives = np.zeros(128, int), np.zeros(128, int)
    positives[[10, 20, 30]], negatives[[10, 20, 30]] = (10, 30, 80), (90, 70, 20)
    assert chances_of(Outcomes(positives, negatives))[[10, 20, 30]] == pytest.approx([0.1, 0.3, 0.8])
    positives[20], negatives[20] = 0, 100
    found = chances_of(Outcomes(positives, negatives))
    assert found[[10, 20, 30]] == pytest.approx([0.05, 0.05, 0.8])
    assert np.all(np.diff(found) >= 0)


def test_merging_tiles_before_or_after_gives_the_same():
    rng = np.random.default_rng(3)
    usual = reference(rng)
    scores, labels, times = traffic(rng, 7)
    half = len(scores) // 2
    whole = sketched(scores, labels, times)
    parts = [sketched(*(each[part] for each in (scores, labels, times))) for part in (slice(half), slice(half, None))]
    again = [merge([parts[i][j] for i in (1, 0)]) for j in (0, 1)]
    assert estimate_window(*again, usual, 1000) == estimate_window(*whole, usual, 1000)


def test_traffic_that_has_become_harder_shows_without_a_label():
    rng = np.random.default_rng(5)
    usual = reference(rng)
    for spread in (0.5, 0.8, 1.5):
        rows = traffic(rng, 7, spread=spread)
        exact = realised(rows[0], rows[1])
        found = estimated(usual, rows, known=0)
        assert abs(found["auc"].usual - exact["auc"]) > 0.02
        for name in ("auc", "log_loss", "accuracy"):
            assert found[name].blind[0] == pytest.approx(exact[name], abs=0.02), (spread, name)
            assert np.isnan(found[name].realised)


def test_what_a_score_no_longer_means_only_labels_tell():
    rng = np.random.default_rng(7)
    usual = reference(rng, wander=0.2)
    rows = traffic(rng, 7, tilt=(0.4, 0.6))
    exact = realised(rows[0], rows[1])
    errors = []
    for known in (0, 0.15, 0.5, 1.0):
        found = estimated(usual, rows, known)["auc"]
        errors.append(abs(found.corrected[0] - exact["auc"]))
        assert found.blind[0] > exact["auc"] + 0.04
    assert errors[0] > errors[1] > errors[3]
    assert errors[3] < 0.02
    widths = [np.diff(estimated(usual, rows, known)["auc"].corrected[1:])[0] for known in (0, 0.5, 1.0)]
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("wander", [0.0, 0.4])
def test_ranges_hold_the_truth_in_about_95_of_100_windows(wander):
    """Of weeks like the reference's; a reference of five weeks knows its own spread to within a third or so."""
    held = {"blind": 0, "corrected": 0}
    for number in range(20):
        rng = np.random.default_rng(1000 + number)
        usual = reference(rng, wander=wander)
        for _ in range(10):
            rows = traffic(rng, 7, wander=wander)
            found = estimated(usual, rows)["auc"]
            exact = realised(rows[0], rows[1])["auc"]
            for name in held:
                _, low, high = getattr(found, name)
                held[name] += low <= exact <= high
    for name, count in held.items():
        assert 170 <= count <= 200, (name, count)


def test_a_tilt_is_found_again():
    rng = np.random.default_rng(11)
    scores, labels, times = traffic(rng, 60, tilt=(0.5, 0.7))
    chances = (np.arange(128) + 0.5) / 128
    outcomes = Outcomes.of(sketch_losses(scores, labels, times))
    assert fit_tilt(chances, outcomes, (10.0, 10.0)) == pytest.approx([0.5, 0.7], abs=0.03)
    assert fit_tilt(chances, Outcomes(outcomes.positives * 0, outcomes.negatives * 0), (1.0, 1.0)).tolist() == [0, 1]
    assert tilted(chances, (0.0, 1.0)) == pytest.approx(chances)


def test_a_reference_keeps_its_estimator():
    usual = reference(np.random.default_rng(2))
    again = Reference.from_bytes(usual.to_bytes())
    assert again.estimator.usual == usual.estimator.usual
    assert again.to_bytes() == usual.to_bytes()
    assert histogram(usual.usual["score"]).sum() == 35 * A_DAY


def test_too_few_rows_are_not_judged():
    rng = np.random.default_rng(2)
    usual = reference(rng)
    scores, labels, times = (each[:500] for each in traffic(rng, 1))
    assert estimate_window(*sketched(scores, labels, times), usual, 1000) == ((), ())


def test_monitors_tell_every_day_and_an_alert_says_what_to_expect():
    rng = np.random.default_rng(4)
    usual = reference(rng, wander=0.1)
    monitor = ModelMonitor("m", {"1": usual}.get)
    scores, labels, times = traffic(rng, 12, spread=0.4, shift=0.3)
    monitor.add_sketches("1", sketch_batch({"score": scores}, {"score": "score"}, times, TILE_MS))
    windows, alerts = monitor.advance(9 * DAY_MS)
    monitor = ModelMonitor.from_bytes(monitor.to_bytes(), {"1": usual}.get)
    monitor.add_losses("1", sketch_losses(scores, labels, times + HOUR_MS))
    later = monitor.advance(12 * DAY_MS)
    told = [each for each in windows + later[0] if each.monitor == "estimate"]
    assert [each.window_end // DAY_MS for each in told] == [7, 8, 9, 10, 11, 12]
    assert "realised" not in {each.statistic for each in told[0].results}  # no label had come
    last = {(each.column, each.statistic): each for each in told[-1].results}
    week = times >= 5 * DAY_MS
    exact = realised(scores[week], labels[week])
    assert last["auc", "realised"].value == pytest.approx(exact["auc"], abs=0.01)
    assert last["auc", "estimated"].value == pytest.approx(exact["auc"], abs=0.02)
    assert last["auc", "estimated"].threshold == usual.estimator.usual[0].value > exact["auc"] + 0.05
    opened = next(each for each in alerts if each.monitor == "features")
    first = {(each.column, each.statistic): each.value for each in told[0].results}
    assert f"its AUC is {first['auc', 'estimated']:.3f}" in opened.summary
    assert opened.estimated_harm == pytest.approx(
        max(first["log_loss", "estimated"] - usual.estimator.usual[1].value, 0)
    )
