"""The worker's HTTP side: OpenAI's REST surface in front of the engine process. No torch here."""
