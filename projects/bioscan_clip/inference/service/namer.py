"""What the service does with photos and barcodes, apart from HTTP."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torchvision.io import encode_jpeg
from torchvision.transforms.v2 import functional as F

from projects.bioscan_clip.datasets.cropping import USUAL_MARGIN, Box, crop_specimen
from projects.bioscan_clip.datasets.photos import open_photo
from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, taxon_code
from projects.bioscan_clip.datasets.transforms import evaluation_view
from projects.bioscan_clip.inference.embedding import encode_barcodes, keep
from projects.bioscan_clip.inference.identify import Queries
from projects.bioscan_clip.inference.inputs import photo_of, read_inputs
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.model import Model
from projects.bioscan_clip.inference.naming import name_specimens, parse_taxa
from projects.bioscan_clip.inference.photos import read_photo
from projects.bioscan_clip.inference.service.answers import VERSION, Options, Result
from projects.bioscan_clip.scoring.calibration import PRECISIONS

_EXAMPLES: Final = 6
_MOST_PIXELS: Final = 1 << 26  # of a photo that is sent; decoded, they take 200 MB
_SHOWN: Final = 512  # pixels on the longer side of a photo of the library


@dataclass
class Query:
    """A specimen on its way through the service.

    Attributes
    ----------
    id : str
        What answers call it.
    options : Options
        How it is named.
    barcode : str
        As it came; empty if there is none.
    view : torch.Tensor or None
        Its photo as the encoder takes it, uint8 ``(3, S, S)``.
    errors : list of str
        What could not be used, and why.
    photo_size, crop : tuple of int or None
        Of the photo, see :class:`~projects.bioscan_clip.inference.service.answers.Result`.
    """

    id: str
    options: Options
    barcode: str = ""
    view: torch.Tensor | None = None
    errors: list[str] = field(default_factory=list)
    photo_size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None


class Namer:
    """Names specimens by a library; called with queries, returns the values of a Result for each.

    Parameters
    ----------
    model : Model
        The library's model.
    library : ReferenceLibrary
        Known specimens.
    """

    def __init__(self, model: Model, library: ReferenceLibrary) -> None:
        self.model = model
        self.library = library
        self.hashes = {"model_hash": model.hash, "library_hash": library.hash}
        self.within = lru_cache(maxsize=16)(self._within)
        self.photo = lru_cache(maxsize=256)(self._photo)

    def read_photo(self, query: Query, content: bytes, crop: str) -> None:
        """Read a query's photo, or note why it cannot be.

        Parameters
        ----------
        query : Query
            Whose ``view``, ``photo_size`` and ``crop`` are set.
        content : bytes
            The file.
        crop : str
            ``none``, ``auto``, or ``left,top,right,bottom`` in pixels.
        """
        part = self.model.configuration["modalities"].get("rgb")
        if part is None:
            query.errors.append("the model has no encoder of photos")
            return
        try:
            _check_pixels(content)
            pixels = read_photo(content)
            height, width = pixels.shape[1:]
            box: Box | None = None
            if crop == "auto":
                pixels, box = crop_specimen(pixels, part.get("crop_margin", USUAL_MARGIN))
            elif crop != "none":
                box = _box(crop, width, height)
                pixels = pixels[:, box.top : box.bottom, box.left : box.right]
        except ValueError as error:
            query.errors.append(f"photo: {error}")
            return
        prepared = part["preprocessing"]
        query.view = evaluation_view(
            pixels, prepared["image_size"], prepared.get("interpolation", "bilinear")
        )
        query.photo_size = width, height
        query.crop = (box.left, box.top, box.right, box.bottom) if box else None

    def __call__(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """Embed queries in one pass per encoder, and name them."""
        vectors = {
            name: np.zeros((len(queries), self.model.dimension), dtype=np.float32)
            for name in ("rgb", "dna")
        }
        views = {row: query.view for row, query in enumerate(queries) if query.view is not None}
        if views:
            vectors["rgb"][list(views)] = self.model.encode_views(torch.stack([*views.values()]))
        texts = [query.barcode for query in queries]
        errors = [list(query.errors) for query in queries]
        notes: list[list[str]] = [[] for _ in queries]
        rows = np.flatnonzero([bool(text) for text in texts])
        if len(rows) and "dna" not in self.model.modalities:
            for row in rows:
                errors[row].append("the model has no encoder of barcodes")
        elif len(rows):
            encoded, placed = encode_barcodes(self.model, [texts[row] for row in rows])
            keep(encoded, rows, vectors["dna"], "barcode", errors, notes)
            for row, text in zip(rows, placed, strict=True):
                texts[row] = text
        described = pd.DataFrame(
            {
                "id": [query.id for query in queries],
                "error": ["; ".join(part) for part in errors],
                "note": ["; ".join(part) for part in notes],
            }
        )
        results: list[dict[str, Any]] = [{}] * len(queries)
        for options in {query.options for query in queries}:
            ours = [row for row, query in enumerate(queries) if query.options == options]
            named = name_specimens(
                self.within(options)[0],
                Queries(vectors["rgb"][ours], vectors["dna"][ours], [texts[row] for row in ours]),
                described.iloc[ours].reset_index(drop=True),
                options.precision,
                options.top_k,
            )
            records = json.loads(named.to_json(orient="records", double_precision=15))
            for row, record in zip(ours, records, strict=True):
                query = queries[row]
                results[row] = record | {"photo_size": query.photo_size, "crop": query.crop}
        return results

    def _within(self, options: Options) -> tuple[ReferenceLibrary, list[str]]:
        """Return the library as options restrict it, and names that no specimen has.

        Raises
        ------
        ValueError
            If nothing is left.
        """
        library, unknown = self.library, []
        text = options.restrict_to
        if "=" in text:
            library = library.restrict_to(parse_taxa(text))
        elif names := [
            name.strip() for name in text.replace(",", "\n").split("\n") if name.strip()
        ]:
            codes = np.array([taxon_code(name.encode()) for name in names])
            held = (codes != UNKNOWN) & np.isin(codes, library.labels[library.kept])
            library = library.where(np.isin(library.labels, codes[held]).any(axis=1))
            unknown = [name for name, known in zip(names, held, strict=True) if not known]
            if not held.any():
                raise ValueError(
                    f"No specimen of the library is of {', '.join(names[:5])}; names are of "
                    "orders, families, genera and species."
                )
        if options.leave_out:
            library = library.where(~library.having_id([options.leave_out]))
        if not len(library):
            raise ValueError("Nothing is left of the library.")
        return library, unknown

    def _photo(self, name: str) -> bytes:
        """Return the photo of a specimen of the library, small: a JPEG file.

        Raises
        ------
        LookupError
            If there is no such specimen, or its photo cannot be read.
        """
        rows = np.flatnonzero(self.library.having_id([name]))
        place = self.library.table(rows[:1])["photo"].iloc[0] if len(rows) else pd.NA
        if pd.isna(place):
            raise LookupError(f"The library has no photo of {name}.")
        try:
            pixels = read_photo(photo_of(place))
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise LookupError(f"The photo of {name} cannot be read.") from error
        if max(pixels.shape) > _SHOWN:
            pixels = F.resize(pixels, None, max_size=_SHOWN, antialias=True)
        return bytes(encode_jpeg(pixels.contiguous(), quality=90).numpy())

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is to be known of the library; see LibraryFacts."""
        about = self.library.about
        labels = self.library.labels[self.library.kept]
        counts = {
            name: sum(segment[name] for segment in about["segments"])
            for name in ("rgb", "barcodes")
        }
        return {
            "version": VERSION,
            **self.hashes,
            "specimens": len(self.library),
            "photos": counts["rgb"],
            "barcodes": counts["barcodes"],
            "taxa": {
                rank: len(np.unique(codes[codes != UNKNOWN]))
                for rank, codes in zip(RANKS, labels.T, strict=True)
            },
            "takes": [
                what
                for name, what in (("rgb", "photo"), ("dna", "barcode"))
                if name in self.model.modalities
            ],
            "precisions": list(PRECISIONS),
            "calibrated": {
                kind: {name: part["calibration"][name] for name in ("specimens", "thresholds")}
                for kind, part in about["calibration"].items()
            },
            "columns": [name for name in Result.model_fields if name not in ("photo_size", "crop")],
            "examples": self._examples(),
        }

    def _examples(self) -> list[dict[str, str]]:
        """Choose specimens of different kinds whose photos can be read."""
        kept = np.flatnonzero(self.library.kept)
        kept = kept[np.argsort(self.library.labels[kept, 1], kind="stable")]  # by family
        spread = np.linspace(0, len(kept) - 1, 5 * _EXAMPLES).astype(np.int64)
        rows = kept[np.unique(spread)]
        table = self.library.table(rows).assign(barcode=self.library.barcodes(rows))
        examples = []
        for row in table[table["photo"].notna() & table["sampleid"].notna()].to_dict("records"):
            try:
                self.photo(row["sampleid"])
            except LookupError:
                continue
            name = next((row[rank] for rank in reversed(RANKS) if isinstance(row[rank], str)), "")
            examples.append({"id": row["sampleid"], "name": name, "barcode": row["barcode"]})
        return examples[:: -(-len(examples) // _EXAMPLES) or 1]


def read_barcodes(text: str) -> list[dict[str, str]]:
    """List barcodes that somebody has pasted.

    Parameters
    ----------
    text : str
        FASTA, FASTQ; a table with a column of barcodes; or nothing but bases, a barcode on each
        line, or one in lines of equal length.

    Returns
    -------
    list of dict
        ``id`` and ``barcode`` of each.

    Raises
    ------
    ValueError
        If there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("The text is empty; expected a barcode, FASTA or a table.")
    ending = {">": ".fasta", "@": ".fastq"}.get(lines[0][0])
    ending = ending or next((end for end, mark in _TABLES.items() if mark in lines[0]), None)
    if ending is None:
        is_wrapped = len({len(line) for line in lines[:-1]}) == 1 and len(lines[0]) <= _WRAPPED
        barcodes = ["".join(lines)] if is_wrapped else lines
        return [
            {"id": f"barcode {number}", "barcode": barcode}
            for number, barcode in enumerate(barcodes, 1)
        ]
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"text{ending}"
        path.write_text(text, "utf-8")
        try:
            table = read_inputs([str(path)])
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "The text")) from error
    texts = table["barcode"].fillna("")
    return [{"id": name, "barcode": text} for name, text in zip(table["id"], texts, strict=True)]


_TABLES: Final[Mapping[str, str]] = {".tsv": "\t", ".csv": ","}
_WRAPPED: Final = 120  # bases on a line of one barcode, at most


def _check_pixels(content: bytes) -> None:
    with suppress(OSError, SyntaxError):  # of which `read_photo` says what it is
        width, height = open_photo(content).size
        if width * height > _MOST_PIXELS:
            raise ValueError(
                f"its {width} x {height} pixels are more than the {_MOST_PIXELS:,} that this "
                "service takes; cut it, or make it smaller"
            )


def _box(text: str, width: int, height: int) -> Box:
    """Read ``left,top,right,bottom``."""
    try:
        left, top, right, bottom = (round(float(part)) for part in text.split(","))
    except (ValueError, OverflowError):
        raise ValueError(
            f"the crop {text[:50]!r} is none; expected none, auto or left,top,right,bottom."
        ) from None
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"the crop {text[:50]} is not within its {width} x {height} pixels.")
    return Box(top, left, bottom, right)
