"""The summary for people: tables and bars in a terminal, legible without colour and in a pipe."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compose.control import Incident
from compose.demo.ledger import FEATURES, Hop, Ledger
from compose.demo.summary import Comparison, Month, Summary

__all__ = ["render"]

BAR_WIDTH = 16
_PLAIN = "#"
_BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class _Row:
    """One line of the ledger for people: what came into a step, what became of it."""

    name: str
    came: int
    went: int | None
    dead: int
    late: int
    missing: int
    duplicates: int


def render(summary: Summary, console: Console) -> None:
    """Print the summary.

    Parameters
    ----------
    summary : Summary
    console : Console
        Its encoding decides whether bars are drawn with blocks or with ``#``.
    """
    ledger, events = summary.ledger, sum(summary.ledger.events.values())
    console.print()
    console.print(
        f"[bold]{events:,} events[/] in {_minutes(summary.replay_seconds)}, {summary.events_per_second:,.0f} a second; "
        f"with everything around it {_minutes(summary.seconds)}."
    )
    console.print()
    console.print(_ledger_table(ledger))
    console.print(_balance(ledger))
    if (checked := summary.verification) is not None:
        parity = checked.parity
        colour, verdict = ("red", "differ") if parity.mismatches else ("green", "agree")
        console.print(
            f"[bold {colour}]Features {verdict}[/]: of {parity.compared:,} logged values computed again, "
            f"{parity.mismatches:,} are different."
        )
        if checked.age_seconds:
            console.print(_ages(checked.age_seconds), soft_wrap=True)
    console.print()
    _incidents(summary, console)
    console.print()
    _performance(summary.comparison, console)
    if told := _estimates(summary.estimates):
        console.print(told)


def _estimates(found: Mapping[str, Any] | None) -> str:
    if found is None or found["estimated"]["correlation"] is None:
        return ""
    how = {name: found[name] for name in ("estimated", "corrected")}
    told = [
        f"{title} {each['correlation']:.2f} correlated and {each['mean_absolute_error']:.4f} off, its range right in "
        f"{each['held']:.0%}"
        for title, each in zip(("by scores alone", "corrected by labels so far"), how.values(), strict=True)
    ]
    return f"[bold]AUC before its labels[/], over {found['windows']} windows of a week: {'; '.join(told)}."


def _ages(age_seconds: Mapping[str, Mapping[str, float]]) -> str:
    """How old the rows were that the online store gave; in a replay they may lie ahead of the request."""
    told = ", ".join(f"{view} {age['median'] / 3600:+,.1f} h" for view, age in age_seconds.items())
    ahead = any(age["median"] < 0 for age in age_seconds.values())
    note = (
        " Negative: ahead of the request, since a second of this replay is days; no fair judge of a model."
        if ahead
        else ""
    )
    return f"[dim]Median age of the rows read:[/] {told}.{note}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"


# ---- the ledger


def _rows(ledger: Ledger) -> list[_Row]:
    """One line a topic, with its archive; feature views together; then the steps between topics."""
    into = {hop.name.removeprefix("→ "): hop for hop in ledger.hops if hop.name.startswith("→ ")}
    archived = {hop.name.removesuffix(" → archive"): hop for hop in ledger.hops if hop.name.endswith(" → archive")}
    rows = [_topic(name, [hop], [archived[name]] if name in archived else []) for name, hop in into.items()]
    features = [name for name in into if name.startswith(FEATURES)]
    if len(features) > 1:
        merged = _topic(
            f"{FEATURES}* ({len(features)} views)",
            [into[name] for name in features],
            [archived[name] for name in features if name in archived],
        )
        at = next(index for index, row in enumerate(rows) if row.name in features)
        rows = [row for row in rows if row.name not in features]
        rows.insert(at, merged)
    between = [hop for hop in ledger.hops if not hop.name.startswith("→ ") and not hop.name.endswith("→ archive")]
    return rows + [_step(hop) for hop in between]


def _topic(name: str, into: list[Hop], archive: list[Hop]) -> _Row:
    both = [*into, *archive]
    return _Row(
        name,
        came=sum(hop.went for hop in into),
        went=sum(hop.went for hop in archive) if archive else None,
        dead=sum(hop.dead for hop in archive),
        late=sum(hop.late for hop in archive),
        missing=sum(hop.missing + hop.surplus for hop in both),
        duplicates=sum(hop.duplicates for hop in both),
    )


def _step(hop: Hop) -> _Row:
    return _Row(hop.name, hop.came, hop.went, hop.dead, hop.late, hop.missing + hop.surplus, hop.duplicates)


def _ledger_table(ledger: Ledger) -> Table:
    rows = _rows(ledger)
    aside = {name: any(getattr(row, name) for row in rows) for name in ("dead", "late")}
    table = Table(title="The ledger", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", overflow="fold", min_width=24)
    for name in ("came", "arrived", *(name for name, shown in aside.items() if shown), "unaccounted", "twice"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row.came:,}", "-" if row.went is None else f"{row.went:,}"]
        cells += [f"{getattr(row, name):,}" for name, shown in aside.items() if shown]
        cells += [f"[bold red]{wrong:,}[/]" if wrong else "0" for wrong in (row.missing, row.duplicates)]
        table.add_row(escape(row.name).replace(" → ", " > "), *cells)
    return table


def _balance(ledger: Ledger) -> str:
    aside = f"{ledger.dead_letters:,} dead letters, {ledger.late:,} late"
    if not ledger.unaccounted and not ledger.duplicates:
        return f"[bold green]It adds up[/]: nothing unaccounted for, nothing twice; {aside}."
    wrong = f"{ledger.unaccounted:,} unaccounted for, {ledger.duplicates:,} twice"
    return f"[bold red]It does not add up[/]: {wrong}; {aside}."


# ---- incidents


def _incidents(summary: Summary, console: Console) -> None:
    ledger = summary.ledger
    table = Table(title="Incidents", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("when", no_wrap=True)
    table.add_column("monitor", no_wrap=True)
    table.add_column("cause", no_wrap=True)
    table.add_column("what, and what came of it", overflow="fold", ratio=1)
    for each in summary.incidents:
        told = [escape(each.summary), _named(each), _outcome(each)]
        cause = each.cause or each.kind
        table.add_row(_day(each.opened_ms), escape(each.monitor), cause, "\n".join(line for line in told if line))
    if summary.incidents:
        console.print(table)
    else:
        console.print("[bold]Incidents[/]: none.")
    refused = f"{ledger.refusals} refused because the challenger was not better" if ledger.refusals else "none refused"
    console.print(
        f"{_count(ledger.alerts, 'alert')} about {_count(ledger.incidents, 'incident')}, "
        f"{_count(ledger.submissions, 'submission')}: {_count(ledger.promotions, 'promotion')}, {refused}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _named(incident: Incident) -> str:
    named = [
        f"{escape(each.column)} {each.value / each.threshold:.1f}x" for each in incident.evidence if each.threshold
    ]
    return f"[dim]over threshold:[/] {', '.join(named[:4])}" if named else ""


def _outcome(incident: Incident) -> str:
    decision = incident.decision
    if decision is None:
        if incident.submission:
            return f"training run {incident.submission}"
        if incident.quarantined:
            return f"{_day(incident.start_ms)} to {_day(incident.end_ms)} kept out of training sets; no retraining"
        return "no retraining"
    won, lost = decision["challenger_log_loss"], decision["champion_log_loss"]
    against = "" if lost is None else f" against {lost:.4f} of {escape(decision['champion_version'])}"
    verdict = "[bold green]promoted[/]" if decision["decision"] == "promoted" else "[bold yellow]refused[/]"
    rows = f"{decision['held_out_rows']:,} held-out requests"
    return f"{verdict} {escape(decision['challenger_version'])}: log loss {won:.4f}{against}, on {rows}"


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%d %b %Y}".lstrip("0")


# ---- performance


def _performance(compared: Comparison, console: Console) -> None:
    if compared.start_ms is None:
        console.print("[bold]Performance[/]: no model was trained, so there is nothing to compare with.")
        return
    console.print(_months_table(compared.months, _blocks(console)))
    console.print(_totals(compared))
    console.print(
        "[dim]live: what was answered at the time. frozen: the first model, on the same requests. half year: a model "
        f"trained on what was known by {_day(compared.split_ms)}; it has seen the answers before, so it is judged "
        "on the second half alone. AUC: higher is better. Log loss: lower is better.[/]"
    )


def _blocks(console: Console) -> bool:
    return console.encoding.lower().replace("-", "").startswith("utf")


def _months_table(months: Iterable[Month], blocks: bool) -> Table:
    table = Table(title="AUC by month", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("month", no_wrap=True)
    for name in ("requests", "late", "live", "frozen", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    compared = [month for month in months if month.live_auc is not None and month.frozen_auc is not None]
    top = max((abs((m.live_auc or 0) - (m.frozen_auc or 0)) for m in compared), default=0.0)
    table.add_column("live above frozen", no_wrap=True)
    for month in months:
        gain = None
        if month.live_auc is not None and month.frozen_auc is not None:
            gain = month.live_auc - month.frozen_auc
        table.add_row(
            month.month,
            f"{month.count:,}",
            f"{month.late_share:.1%}",
            _figure(month.live_auc),
            _figure(month.frozen_auc),
            "-" if gain is None else f"{gain:+.4f}",
            "" if gain is None else _bar(gain, top, blocks),
        )
    return table


def _bar(value: float, top: float, blocks: bool) -> str:
    """A bar whose longest is `BAR_WIDTH` wide; negative values start with a minus sign."""
    eighths = round(8 * BAR_WIDTH * abs(value) / top) if top else 0
    if not blocks:
        drawn = _PLAIN * round(eighths / 8)
    else:
        drawn = _BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
    return f"[green]{drawn}[/]" if value >= 0 else f"[red]-{drawn}[/]"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _totals(compared: Comparison) -> Table:
    table = Table(title="On the same requests", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge = False
    table.add_column("", no_wrap=True)
    for name in ("requests", "live", "frozen", "half year", "gain"):
        table.add_column(name, justify="right", no_wrap=True)
    spans = [(f"since {_day(compared.start_ms or 0)}", compared.whole, compared.count, False)]
    if compared.second_count:
        spans.append((f"since {_day(compared.split_ms)}", compared.second_half, compared.second_count, True))
    for span, judged, count, honest in spans:
        for measure, title, better in (("auc", "AUC", 1), ("logloss", "log loss", -1)):
            found = judged[measure]
            live, frozen = found["live"], found["frozen"]
            gain = "-" if live is None or frozen is None else f"{live - frozen:+.4f}"
            colour = "green" if live is not None and frozen is not None and better * (live - frozen) >= 0 else "red"
            table.add_row(
                f"{title}, {span}",
                f"{count:,}",
                f"[bold]{_figure(live)}[/]",
                _figure(frozen),
                _figure(found["half_year"]) if honest else "",
                f"[{colour}]{gain}[/]",
            )
    return table
