"""What Penstock's processes agree on: API types, block hashes, headers, labels, metrics, errors.

Operator, gateway and worker import this package and never each other. Anything that a user or a
second process relies on by name is declared here once; everything else is generated from it or
checked against it.
"""
