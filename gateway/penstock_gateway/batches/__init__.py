"""The batch service: keeps files and batches, and asks the gateway for what is in them.

A process of its own, the only writer of its folder. It reaches models through the gateway like any
client, for the tenant whose batch it is, and takes no more than is to spare.
"""
