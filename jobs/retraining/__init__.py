"""From a drift alert to one training run, and from its outcome to the model that answers."""
