"""Several tokens in a step: a proposer guesses, and the model says how far it is right."""
