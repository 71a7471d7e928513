"""What becomes of an evaluation: files, tables, a page."""
