"""A trained model as a tool: embeddings of photos, barcodes and names as they come."""

from projects.bioscan_clip.inference.barcodes import BarcodePlacer, PreparedBarcode, clean_barcode

__all__ = ["BarcodePlacer", "PreparedBarcode", "clean_barcode"]
