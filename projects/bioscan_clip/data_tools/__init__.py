"""How files come to be: sample generator, splits."""
