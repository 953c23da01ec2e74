"""From metrics to sizes: the shell around `scaling`, the same for a cluster and for one machine."""
