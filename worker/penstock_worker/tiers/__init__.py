"""KV beyond the prefix cache: blocks that leave it are kept on a disk, and come back by copy."""
