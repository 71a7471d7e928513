"""HDF5 in, training examples out."""
