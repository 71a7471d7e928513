"""How files come to be: made up, built from what is published, copied, checked."""
