"""Several processes that serve one port, and see the fleet's load and caches alike."""
