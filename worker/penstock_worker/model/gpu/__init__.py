"""A decoder on a GPU: a step's numbers staged in one copy, decoding recorded as CUDA graphs."""
