"""How often the drift job is killed."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--drift-kills",
        type=int,
        default=4,
        metavar="N",
        help="times to kill the drift job at a random moment (50: some ten minutes)",
    )
