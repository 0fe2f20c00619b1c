"""Running strangers' code: sandbox, supervisor, environments, results, behind the port in ``port.py``."""
