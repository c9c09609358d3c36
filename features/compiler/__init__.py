"""From Feast definitions to what runs them."""
