"""Discrete-event simulation of a deployment under a trace, driving the real scaling decisions."""
