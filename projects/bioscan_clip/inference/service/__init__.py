"""A page and an HTTP interface that name specimens by a reference library."""
