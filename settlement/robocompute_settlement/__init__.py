"""The settlement port, its Solana adapter, and the embedded chain of local worlds."""
