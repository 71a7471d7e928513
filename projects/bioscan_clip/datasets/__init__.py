"""HDF5 in, training examples out.

Names are imported when they are asked for, so that `datasets.schema` alone stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "loader": ["SpecimenLoader"],
        "specimens": ["BIOSCANInsectDataset"],
        "tokenizer": ["KmerTokenizer"],
    },
)
