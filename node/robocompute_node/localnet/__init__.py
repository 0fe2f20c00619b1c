"""Local worlds: a chain, providers and clients as processes of one machine, from one file."""
