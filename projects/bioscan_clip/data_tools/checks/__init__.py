"""What can be wrong with a BIOSCAN HDF5 file, one module per subject."""
