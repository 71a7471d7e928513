"""What the service is asked and what it answers, as JSON; ``/openapi.json`` is made of this."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from projects.bioscan_clip.scoring.calibration import PRECISIONS

VERSION: Final = 1
"""Of the answers. It changes when a field goes or means something else, not when one is added."""

_ID: Final = 500
_BASES: Final = 20_000


class Options(BaseModel):
    """How specimens are named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: float = Field(
        default=0.95,
        ge=PRECISIONS[0],
        le=PRECISIONS[-1],
        description="Share of accepted names that should be right.",
    )
    top_k: int = Field(default=5, ge=1, le=20, description="Nearest specimens to list.")
    restrict_to: str = Field(
        default="",
        max_length=200_000,
        description="Taxa that may be named: `order=Diptera`, several joined by commas; or names "
        "of any rank, one a line or joined by commas.",
    )
    leave_out: str = Field(
        default="", max_length=_ID, description="Id of a specimen of the library to leave aside."
    )


class Barcode(BaseModel):
    """A specimen's DNA barcode."""

    id: str = Field(max_length=_ID)
    barcode: str = Field(max_length=_BASES)


class BarcodeList(BaseModel):
    """Barcodes of specimens."""

    barcodes: list[Barcode]


class BarcodeRequest(Options, BarcodeList):
    """Specimens to be named by their barcodes."""


class PhotoRequest(Options):
    """Specimens to be named by their photos, of some also by their barcodes."""

    photos: list[bytes] = Field(description="Files: JPEG, PNG, TIFF, WebP, BMP or GIF.")
    barcodes: list[str] = Field(
        default=[], description="The barcode of each photo, in order, empty where there is none."
    )
    crop: list[str] = Field(
        default=["none"],
        description="`none`; `auto`, to find the specimen on a plain background; or "
        "`left,top,right,bottom` in pixels of the upright photo. One for all photos or one each.",
    )


class Result(BaseModel):
    """A specimen's names, with the columns of `bioscan-clip identify`."""

    id: str
    query: Literal["photo", "barcode", "both", ""]
    answer: str | None = None
    accepted_rank: str | None = None
    accepted_name: str | None = None
    order: str | None = None
    order_confidence: float | None = None
    order_accepted: bool | None = None
    family: str | None = None
    family_confidence: float | None = None
    family_accepted: bool | None = None
    genus: str | None = None
    genus_confidence: float | None = None
    genus_accepted: bool | None = None
    species: str | None = None
    species_confidence: float | None = None
    species_accepted: bool | None = None
    in_library: float | None = None
    conflict: str | None = None
    nearest_ids: list[str] = []
    nearest_names: list[str] = []
    nearest_similarities: list[float] = []
    nearest_identities: list[float | None] = []
    error: str
    note: str
    photo_size: tuple[int, int] | None = Field(
        default=None, description="Width and height, upright."
    )
    crop: tuple[int, int, int, int] | None = Field(
        default=None,
        description="What of the photo was taken: left, top, right, bottom in pixels.",
    )


class Answer(BaseModel):
    """Names of specimens, and what they depend on."""

    version: int
    model_hash: str
    library_hash: str
    options: Options
    specimens: int = Field(description="Specimens of the library that could be found.")
    unknown_names: list[str] = Field(description="Names of `restrict_to` that no specimen has.")
    results: list[Result]


class Calibrated(BaseModel):
    """What probabilities of one kind of query rest on."""

    specimens: int
    thresholds: list[list[float | None]] = Field(
        description="By rank and precision, from which confidence a name is accepted; null: never."
    )


class Example(BaseModel):
    """A specimen of the library to try."""

    id: str
    name: str
    barcode: str


class LibraryFacts(BaseModel):
    """The library and what the service takes."""

    version: int
    model_hash: str
    library_hash: str
    specimens: int
    photos: int
    barcodes: int
    taxa: dict[str, int]
    takes: list[Literal["photo", "barcode"]]
    precisions: list[float]
    calibrated: dict[str, Calibrated]
    columns: list[str] = Field(description="Of `bioscan-clip identify`'s table.")
    examples: list[Example]
    limits: dict[str, float]
