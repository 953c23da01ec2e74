"""`/v1/messages`: Anthropic's API in terms of chat completions, which workers speak."""
