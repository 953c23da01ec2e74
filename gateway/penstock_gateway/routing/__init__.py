"""Which worker takes a request: pure functions and plain values."""
