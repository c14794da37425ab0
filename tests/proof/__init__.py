"""The proofs: the real server under race, abort, crash, fault, garbage and endurance, each ending with clean books.

`python -m tests.proof` (`make prove`) runs the long form and prints a table; `make test` runs a short form of each.
"""
