"""A trained model as a tool: it embeds photos, barcodes and names as they come."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_MASK
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders.batches import in_eights
from projects.bioscan_clip.encoders.configuration import SAMPLE_TOKENIZER
from projects.bioscan_clip.encoders.network import Network, embedding_width
from projects.bioscan_clip.encoders.pretrained import LOGIT_SCALE, TOKENIZER_FILE, read_model
from projects.bioscan_clip.encoders.text import BERT_SAMPLE
from projects.bioscan_clip.encoders.weights import PretrainedWeights, load_into
from projects.bioscan_clip.files import progress
from projects.bioscan_clip.inference.barcodes import BarcodePlacer, clean_barcode

if TYPE_CHECKING:
    from projects.bioscan_clip.datasets.names import TaxonTokenizer
    from projects.bioscan_clip.inference.photos import Photo

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
OnError = Literal["raise", "skip"]

_HASHED: Final = ("encoder", "lora", "head", "preprocessing", "tokenizer")
_WORDS: Final = {"rgb": "photos", "dna": "barcodes", "text": "names"}


@dataclass
class Encoded:
    """Embeddings where some of the input may have been broken.

    Attributes
    ----------
    embeddings : numpy.ndarray
        float32, shape ``(N, D)``, of unit length; NaN in the rows of `errors`.
    errors : dict of int to str
        Why a row has no embedding.
    notes : dict of int to str
        What was done to a row's photo or barcode, and what makes it less reliable.
    """

    embeddings: FloatArray
    errors: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


class Model:
    """A trained model; see :func:`load_model`.

    Parameters
    ----------
    configuration : mapping
        From :func:`~projects.bioscan_clip.encoders.configuration.describe_model`.
    state_dict : mapping of str to torch.Tensor
        Weights by the names that checkpoints give them.
    device : torch.device or str
        Where to compute.
    source : str or pathlib.Path
        Where the weights are from, for messages.

    Attributes
    ----------
    configuration : dict
        What the model is, in plain values.
    device : torch.device
        Where it computes.
    source : pathlib.Path
        Where it is from.
    network : torch.nn.Module
        Its encoders and heads.
    log_logit_scale : torch.Tensor
        Logarithm of `logit_scale`, as training keeps it.

    Raises
    ------
    ValueError
        If the configuration names an encoder that this class cannot build, or the weights are of
        another model.
    """

    def __init__(
        self,
        configuration: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        source: str | Path = "the checkpoint",
    ) -> None:
        self.configuration = dict(configuration)
        self.device = torch.device(device)
        self.source = Path(source)
        self.network = Network(configuration["modalities"])
        weights = dict(state_dict)
        self.log_logit_scale = weights.pop(LOGIT_SCALE, torch.zeros(()))
        load_into(self.network, PretrainedWeights(self.source, weights))
        self.network.to(self.device).eval()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it embeds: ``rgb``, ``dna`` and ``text``, or some of them."""
        return tuple(self.configuration["modalities"])

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return embedding_width(next(iter(self.configuration["modalities"].values())))

    @property
    def logit_scale(self) -> float:
        """By which similarities are multiplied in training."""
        return float(self.log_logit_scale.exp())

    @cached_property
    def hash(self) -> str:
        """64 hexadecimal digits that change with any weight and any way of preparing the input."""
        parts = {
            name: {key: value for key, value in part.items() if key in _HASHED}
            for name, part in self.configuration["modalities"].items()
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def placer(self) -> BarcodePlacer:
        """Places barcodes in the frame that the model was trained on."""
        return BarcodePlacer(self._part("dna").get("reference_barcodes") or ())

    @overload
    def encode_image(
        self,
        photos: "Iterable[Photo]",
        batch_size: int = 64,
        show_progress: bool = False,
        on_error: Literal["raise"] = "raise",
        crop: Literal["none", "auto"] = "none",
        save_crops: str | Path | Sequence[Path] | None = None,
    ) -> FloatArray: ...
    @overload
    def encode_image(
        self,
        photos: "Iterable[Photo]",
        batch_size: int = 64,
        show_progress: bool = False,
        *,
        on_error: Literal["skip"],
        crop: Literal["none", "auto"] = "none",
        save_crops: str | Path | Sequence[Path] | None = None,
    ) -> Encoded: ...
    def encode_image(
        self,
        photos: "Iterable[Photo]",
        batch_size: int = 64,
        show_progress: bool = False,
        on_error: OnError = "raise",
        crop: Literal["none", "auto"] = "none",
        save_crops: str | Path | Sequence[Path] | None = None,
    ) -> FloatArray | Encoded:
        """Embed photos.

        Parameters
        ----------
        photos : iterable of str, pathlib.Path, bytes, PIL.Image.Image or numpy.ndarray
            N photos: files, their bytes, PIL images, or uint8 arrays of shape ``(H, W)`` or
            ``(H, W, 3)``.
        batch_size : int, default=64
            Photos that go through the encoder at once.
        show_progress : bool, default=False
            Whether to show a progress bar.
        on_error : {"raise", "skip"}, default="raise"
            What a photo that cannot be read does: raise an error that names it, or get a row of NaN
            and a reason.
        crop : {"none", "auto"}, default="none"
            Photos as they are, or cut to the specimen on a plain background, with the margin that
            those have which the model was trained on; see
            :func:`~projects.bioscan_clip.datasets.cropping.crop_specimen`, which also returns the
            crop. `notes` say where it is.
        save_crops : str, pathlib.Path or sequence of pathlib.Path, optional
            A folder where crops are written, as ``000000.jpg`` by the photo's row, to look at; or
            a file for each photo.

        Returns
        -------
        numpy.ndarray or Encoded
            float32, shape ``(N, D)``, of unit length; with ``on_error="skip"`` an
            :class:`Encoded`.

        Raises
        ------
        ValueError
            If a photo cannot be read, or the model has no encoder of photos.
        """
        from projects.bioscan_clip.datasets.cropping import USUAL_MARGIN
        from projects.bioscan_clip.inference.photos import read_ahead

        image_size = self._part("rgb")["preprocessing"]["image_size"]
        photos = list(photos)
        result = self._empty(len(photos))
        margin = self._part("rgb").get("crop_margin", USUAL_MARGIN) if crop == "auto" else None
        if isinstance(save_crops, str | Path):
            save_crops = [Path(save_crops, f"{row:06}.jpg") for row in range(len(photos))]
        # Older models do not tell.
        interpolation = self._part("rgb")["preprocessing"].get("interpolation", "bilinear")
        views = read_ahead(photos, image_size, batch_size, margin, save_crops, interpolation)
        with self._progress("Photos", len(photos), show_progress) as advance:
            for batch in views:
                _raise_first(batch.errors, "Photo", on_error)
                result.errors |= batch.errors
                result.notes |= batch.notes
                if batch.rows:
                    result.embeddings[batch.rows] = self.encode_views(batch.photos)
                advance(len(batch.rows) + len(batch.errors))
        return result if on_error == "skip" else result.embeddings

    def encode_views(self, views: Tensor) -> FloatArray:
        """Embed photos that are cut to the encoder's size already, all at once.

        Parameters
        ----------
        views : torch.Tensor
            uint8, shape ``(N, 3, S, S)``, from
            :func:`~projects.bioscan_clip.datasets.transforms.evaluation_view`.

        Returns
        -------
        numpy.ndarray
            float32, shape ``(N, D)``, of unit length.
        """
        from projects.bioscan_clip.datasets.transforms import finish

        preprocessing = self._part("rgb")["preprocessing"]
        mean, std = preprocessing["mean"], preprocessing["std"]
        return self._embed("rgb", {"rgb": finish(views.to(self.device), mean=mean, std=std)})

    @overload
    def encode_dna(
        self,
        barcodes: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: Literal["raise"] = "raise",
        place: bool = True,
    ) -> FloatArray: ...
    @overload
    def encode_dna(
        self,
        barcodes: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        *,
        on_error: Literal["skip"],
        place: bool = True,
    ) -> Encoded: ...
    def encode_dna(
        self,
        barcodes: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: OnError = "raise",
        place: bool = True,
    ) -> FloatArray | Encoded:
        """Embed DNA barcodes, equal ones once.

        Parameters
        ----------
        barcodes : sequence of str
            N barcodes in any case, with or without primers, gaps of an alignment and missing ends,
            of either strand.
        batch_size, show_progress, on_error
            As in :meth:`encode_image`.
        place : bool, default=True
            Whether to place barcodes in the frame that the model was trained on; see
            :class:`~projects.bioscan_clip.inference.barcodes.BarcodePlacer`. Without, they are
            tokenized as they are, as evaluations of a file do.

        Returns
        -------
        numpy.ndarray or Encoded
            As :meth:`encode_image`; `notes` say how barcodes were placed.

        Raises
        ------
        ValueError
            If one is no barcode, or the model has no encoder of barcodes.
        """
        tokenizer = KmerTokenizer(**self._part("dna")["tokenizer"])
        result = self._empty(len(barcodes))
        cleaned, result.errors = _checked(barcodes, clean_barcode, "Barcode", on_error)
        texts = {row: barcodes[row] for row in cleaned}
        if place:
            prepared = self.placer.prepare(list(cleaned.values()))
            for row, barcode in zip(cleaned, prepared, strict=True):
                texts[row] = barcode.text
                if note := "; ".join(filter(None, (barcode.describe(), *barcode.warnings))):
                    result.notes[row] = note

        def embed(some: list[str]) -> FloatArray:
            return self._embed("dna", {"dna": tokenizer(some).to(self.device)})

        with self._progress("Barcodes", len(set(texts.values())), show_progress) as advance:
            _fill(result.embeddings, texts, batch_size, embed, advance)
        return result if on_error == "skip" else result.embeddings

    @overload
    def encode_text(
        self,
        names: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> FloatArray: ...
    @overload
    def encode_text(
        self,
        names: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        *,
        on_error: Literal["skip"],
    ) -> Encoded: ...
    def encode_text(
        self,
        names: Sequence[str],
        batch_size: int = 256,
        show_progress: bool = False,
        on_error: OnError = "raise",
    ) -> FloatArray | Encoded:
        """Embed taxonomic names, equal ones once.

        Parameters
        ----------
        names : sequence of str
            N names such as ``"Diptera Culicidae Aedes Aedes albopictus"``: order, family, genus and
            species as far as known.
        batch_size, show_progress, on_error
            As in :meth:`encode_image`.

        Returns
        -------
        numpy.ndarray or Encoded
            As :meth:`encode_image`.

        Raises
        ------
        OSError
            If the tokenizer is neither cached nor to be downloaded.
        ValueError
            If a name is empty, or the model has no encoder of names.
        """
        tokenizer = self.taxon_tokenizer()
        result = self._empty(len(names))
        texts, result.errors = _checked(names, _clean_name, "Name", on_error)

        def embed(some: list[str]) -> FloatArray:
            columns = tokenizer(some)
            tokens, mask = (
                torch.from_numpy(columns[name]).to(self.device) for name in (TEXT_IDS, TEXT_MASK)
            )
            return self._embed("text", {"text": tokens, "text_attention_mask": mask})

        with self._progress("Names", len(set(texts.values())), show_progress) as advance:
            _fill(result.embeddings, texts, batch_size, embed, advance)
        return result if on_error == "skip" else result.embeddings

    def taxon_tokenizer(self) -> "TaxonTokenizer":
        """Return the tokenizer of names: the one beside the weights, or its public original.

        Raises
        ------
        OSError
            If it is neither cached nor to be downloaded.
        """
        from projects.bioscan_clip.datasets.names import TaxonTokenizer

        name = self._part("text")["tokenizer"]["name"]
        if (self.source / TOKENIZER_FILE).is_file():
            name = str(self.source)
        return TaxonTokenizer.from_pretrained(BERT_SAMPLE if name == SAMPLE_TOKENIZER else name)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write a folder that :func:`load_model` takes; see :func:`.exporting.save_pretrained`."""
        from projects.bioscan_clip.inference.exporting import save_pretrained

        return save_pretrained(self, folder, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish on the Hugging Face Hub; see :func:`.exporting.push_to_hub`."""
        from projects.bioscan_clip.inference.exporting import push_to_hub

        return push_to_hub(self, repo_id, **options)

    def _part(self, modality: str) -> dict[str, Any]:
        part: dict[str, Any] | None = self.configuration["modalities"].get(modality)
        if part is None:
            raise ValueError(
                f"This model has no encoder of {_WORDS[modality]}: it was trained on "
                f"{' and '.join(_WORDS[name] for name in self.modalities)}."
            )
        return part

    def _empty(self, rows: int) -> Encoded:
        return Encoded(np.full((rows, self.dimension), np.nan, dtype=np.float32))

    def _progress(self, description: str, total: int, shown: bool) -> Any:
        return progress(description, total) if shown else nullcontext(lambda _=1: None)

    @torch.inference_mode()
    def _embed(self, modality: str, batch: dict[str, Tensor]) -> FloatArray:
        rows = len(batch[modality])
        embeddings = self.network(modality, in_eights(batch))[:rows]
        return nn.functional.normalize(embeddings, p=2, dim=-1).float().cpu().numpy()


def load_model(
    source: str | Path, device: str = "auto", modalities: Sequence[str] | None = None
) -> Model:
    """Load a trained model.

    Parameters
    ----------
    source : str or pathlib.Path
        A checkpoint, the folder of a run, an exported folder, ``hf-hub:owner/name[@revision]`` or a
        ``.pth`` file of CLIBD; see :func:`~projects.bioscan_clip.encoders.pretrained.read_model`.
    device : str, default="auto"
        ``cpu``, ``cuda`` or another of PyTorch's; ``auto`` is a GPU if there is one.
    modalities : sequence of str, optional
        Those of ``rgb``, ``dna`` and ``text`` to load; all if None.

    Returns
    -------
    Model
        The model, ready to embed.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or an older checkpoint's run is not beside it.
    OSError
        If the Hugging Face Hub cannot be reached.
    ValueError
        If it is damaged, of a newer version, of a model that cannot be built, or lacks a modality.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    read = read_model(source, modalities)
    return Model(read.configuration, read.state_dict, device, read.path)


def _clean_name(name: str) -> str:
    if not name.strip():
        raise ValueError("The name is empty.")
    return name


def _checked(
    values: Sequence[str], clean: Callable[[str], str], what: str, on_error: OnError
) -> tuple[dict[int, str], dict[int, str]]:
    """Return cleaned values and reasons why there are none, both by row."""
    cleaned, errors = {}, {}
    for row, value in enumerate(values):
        try:
            cleaned[row] = clean(value)
        except ValueError as error:
            errors[row] = str(error)
            _raise_first(errors, what, on_error)
    return cleaned, errors


def _raise_first(errors: Mapping[int, str], what: str, on_error: OnError) -> None:
    if errors and on_error == "raise":
        row, reason = next(iter(errors.items()))
        raise ValueError(f"{what} {row + 1} cannot be embedded: {reason}")


def _fill(
    embeddings: FloatArray,
    texts: Mapping[int, str],
    batch_size: int,
    embed: Callable[[list[str]], FloatArray],
    advance: Callable[[int], None],
) -> None:
    """Embed texts, by row, each distinct one once."""
    rows = np.fromiter(texts, dtype=np.int64)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts.values()))}
    distinct = list(numbers)
    places = np.array([numbers[text] for text in texts.values()], dtype=np.int64)
    order = np.argsort(places, kind="stable")
    for start in range(0, len(distinct), batch_size):
        batch = distinct[start : start + batch_size]
        first, last = np.searchsorted(places[order], (start, start + len(batch)))
        chosen = order[first:last]
        embeddings[rows[chosen]] = embed(batch)[places[chosen] - start]
        advance(len(batch))
