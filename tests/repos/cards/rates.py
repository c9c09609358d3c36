"""What a currency is worth: a module of the repo's own, which no worker could import."""

import pandas as pd

EUROS = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17}


def euros(amount: pd.Series, currency: pd.Series) -> pd.Series:
    return amount * currency.map(EUROS)
