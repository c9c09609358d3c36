"""Online stores behind Feast's interface, and what keeps them fresh."""
