"""Finding other nodes of the same network, and staying findable."""
