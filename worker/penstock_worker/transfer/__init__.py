"""KV hand-off between workers: one keeps a prompt's blocks under a lease, another pulls them."""
