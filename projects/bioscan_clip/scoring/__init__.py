"""Embeddings and labels in, neighbours and numbers out."""
