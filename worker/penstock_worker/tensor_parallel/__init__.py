"""A model divided among ranks, processes of one worker: each has a GPU, or a share of a CPU.

Rank 0 is the engine: it schedules, draws, and tells the others what to compute. They decide
nothing.
"""
