"""Pages that open offline: one look, and one way to write them."""
