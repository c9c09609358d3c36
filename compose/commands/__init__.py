"""The commands of ``headwater``: one module each, loaded when it is asked for, exposing ``command``."""
