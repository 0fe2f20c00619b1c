"""The embedded chain: LiteSVM behind Solana's JSON-RPC and pubsub, kept in LMDB.

For worlds without a network: the same program binary, the same requests and the same clients as
on a public cluster, with one voter. Run it with ``python -m robocompute_settlement.embedded``.
"""
