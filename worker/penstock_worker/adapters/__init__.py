"""The agent beside an engine: it downloads adapters and has the engine load and unload them."""
