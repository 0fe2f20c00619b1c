"""What two strangers must agree on: identifiers, money, messages, signatures, agreements, vouchers, receipts.

Nothing in this package does I/O, reads a clock or draws a random number.
"""
