"""What one evaluation leaves: files, tables, a page."""
