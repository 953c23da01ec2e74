"""A page that shows what the gateway sees and does: read-only, and readable without scripts."""
