"""How fast the chain is on this machine, beside what the machine can do at all."""
