"""Invented insects: a synthetic file to try things on."""
