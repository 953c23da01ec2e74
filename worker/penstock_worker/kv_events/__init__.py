"""Tells routers what the prefix cache holds: noted by scheduler and pool, published after steps."""
