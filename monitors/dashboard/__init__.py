"""The page: static files, drawn by the browser from JSON. Whoever has the JSON can serve it."""

from pathlib import Path

__all__ = ["FILES"]

FILES = Path(__file__).parent
