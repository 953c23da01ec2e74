"""`penstock-worker fetch`: a model from a hub or a bucket into a folder, whole or not at all.

Runs as the init container of a worker's pod, and before `penstock up` starts one here. Needs no
torch. Weights are safetensors only: other formats can run code.
"""
