"""How commands show a platform."""

from rich.table import Table

from compose.local.platform import Running, memory_bytes

__all__ = ["services_table"]

_COLOURS = {"ready": "green", "exited": "green", "failed": "red", "unhealthy": "red", "backoff": "red"}


def services_table(running: Running) -> Table:
    """One line a service: state, process, restarts, memory, endpoint."""
    memory = memory_bytes(running)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("service", "left"), ("state", "left"), ("process", "right"), ("restarts", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for name, facts in running.services.items():
        colour = _COLOURS.get(facts["state"], "yellow")
        table.add_row(
            name,
            f"[{colour}]{facts['state']}[/]",
            str(facts["pid"] or ""),
            str(facts["restarts"]),
            f"{memory[name] >> 20} MB",
            facts["endpoint"],
        )
    table.add_row("supervisor", running.state, str(running.pid), "", f"{memory['supervisor'] >> 20} MB", "")
    table.add_row("", "", "", "", f"{sum(memory.values()) >> 20} MB", "")
    return table
