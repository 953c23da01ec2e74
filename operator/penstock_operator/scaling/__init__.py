"""How many workers a pool needs: Little's law, its inputs, and the guards around it. Pure."""
