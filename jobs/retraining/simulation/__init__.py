"""Histories of regions that fail, with the code that decides in production."""
