"""libp2p, tamed: noise only, guarded, tuned, behind the port in ``port.py``."""
