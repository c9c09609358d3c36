"""How long the regions are tormented."""


def pytest_addoption(parser):
    parser.addoption(
        "--faults",
        type=int,
        default=8,
        metavar="N",
        help="faults to put two regions through (50: a quarter of an hour)",
    )
    parser.addoption(
        "--two-regions",
        action="store_true",
        help="months of flights through two whole platforms (a quarter of an hour)",
    )
