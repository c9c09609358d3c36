"""A view's history, computed from the archive, and the Feast offline store that answers from it."""
