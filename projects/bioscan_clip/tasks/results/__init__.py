"""What many runs say together, beside published figures."""
