"""Reliability proofs: the real server under races, aborts, crashes, faults, garbage and long load.

Each ends with a consistent ledger. `python -m tests.proof` (`make prove`) runs the long form and prints a table;
`make test` runs a short form of each.
"""
