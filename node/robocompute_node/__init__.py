"""The daemon every provider and client runs."""
