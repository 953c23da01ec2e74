"""The operator in a cluster: observe, decide, act, tell."""
