"""``headwater drift budget``: what the newest windows say of each model, in words and for programs."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from compose.budgets import newest
from compose.commands.drift import spendings

START = datetime(2013, 3, 1, tzinfo=UTC)


def window(model, day, spent, alarms=0, looks=60, monitor="budget"):
    end = START + timedelta(days=day)
    common = {"column": "", "segment": "", "threshold": 0.25, "count": looks, "fired": False}
    results = [
        {"statistic": "spent", "value": spent, **common},
        {"statistic": "alarms", "value": float(alarms), **common},
    ]
    span = {"window_start": end - timedelta(days=30), "window_end": end}
    return {"monitor": monitor, "model": model, "model_version": str(day), **span, "results": results}


WINDOWS = [
    window("delay", 1, 0.01),
    window("price", 9, 0.2, alarms=2),
    window("delay", 3, 0.05, alarms=1, looks=20),
    window("delay", 2, 0.03),
    window("delay", 8, 0.9, monitor="features"),
]


def test_the_newest_day_of_each_model_counts():
    delay, price = newest(WINDOWS)
    assert (delay.model, delay.version, delay.until) == ("delay", "3", START + timedelta(days=3))
    assert (delay.spent, delay.allowed, delay.looks, delay.alarms) == (0.05, 0.25, 20, 1)
    assert price.left == pytest.approx(0.05)
    assert delay.record()["left"] == pytest.approx(0.2)
    assert newest(WINDOWS[4:]) == []


def test_people_see_it_drawn_and_summed():
    out = io.StringIO()
    Console(file=out, width=80).print(spendings(newest(WINDOWS)))
    said = out.getvalue()
    assert "delay 3" in said
    assert "0.250" in said
    assert said.count("\u2588") == 2 + 10  # of 12 each
    assert next(line for line in said.splitlines() if line.strip().startswith("all")).split() == [
        "all",
        "0.500",
        "0.250",
        "0.250",
    ]
