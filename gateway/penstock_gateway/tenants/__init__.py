"""Who calls, what they may ask for, and how much of it."""
