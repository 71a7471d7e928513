"""Photo encoders by name: vision transformers of timm, image towers of OpenCLIP."""

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD
from projects.bioscan_clip.encoders.weights import with_adapters

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

OPEN_CLIP: Final = "open_clip/"
"""What the name of a model of OpenCLIP begins with here."""

# The paper's encoder gets photos as mmlearn's project prepares them; so does the sample's.
_AS_PUBLISHED: Final = ("vit_base_patch16_224", "vit_tiny_r_s16_p8_224")
# TreeOfLife, which BioCLIP and BioCLIP 2 are trained on, holds BIOSCAN-1M.
_SAW_BIOSCAN: Final = "bioclip"


class PhotoEncoder(nn.Module):
    """An encoder of photos with a linear projection.

    Parameters
    ----------
    model_name : str
        A model of timm, such as ``vit_base_patch16_dinov3.lvd1689m``; or of OpenCLIP, which the
        extra ``openclip`` installs: ``open_clip/hf-hub:imageomics/bioclip-2`` or
        ``open_clip/ViT-B-16/laion2b_s34b_b88k``.
    projection_dim : int, default=768
        Length of the embedding.
    pretrained : bool, default=True
        Whether it starts from published weights.
    peft_config : peft.PeftConfig, optional
        Adapters. Where ``qkv`` is among their targets and the model has no layer of that name, they
        go to those that it has: ``q_proj``, ``k_proj`` and ``v_proj``, or its attention.
    model_kwargs : mapping, optional
        Further arguments of :func:`timm.create_model`, or of ``open_clip.create_model``.

    Attributes
    ----------
    has_seen_bioscan : bool
        Whether what it was pretrained on holds photos of BIOSCAN, so that no species is unseen.
    """

    def __init__(
        self,
        model_name: str,
        projection_dim: int = 768,
        pretrained: bool = True,
        peft_config: "PeftConfig | None" = None,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.has_seen_bioscan = _SAW_BIOSCAN in model_name.lower()
        kwargs = dict(model_kwargs or {})
        model: nn.Module
        if model_name.startswith(OPEN_CLIP):
            model = _OpenClipTower(_open_clip(model_name, pretrained, kwargs), projection_dim)
        else:
            import timm

            model = timm.create_model(model_name, pretrained, num_classes=projection_dim, **kwargs)
        for layer in model.modules():
            # Else timm multiplies by the weight itself, past adapters, where there is a bias.
            if hasattr(layer, "qkv_bias_separate"):
                layer.qkv_bias_separate = True  # type: ignore[assignment]
        self.model = with_adapters(model, _fitting(peft_config, model))

    def forward(self, inputs: dict[str, Tensor]) -> BaseModelOutput:
        """Embed ``rgb``, float32 of shape ``(B, 3, S, S)``."""
        return BaseModelOutput(last_hidden_state=self.model(inputs["rgb"]))


class _OpenClipTower(nn.Module):
    """An image tower and a linear head, which is named as timm's are."""

    def __init__(self, clip: Any, projection_dim: int) -> None:
        super().__init__()
        self.visual: nn.Module = clip.visual
        width = getattr(self.visual, "output_dim", None) or clip.text_projection.shape[1]
        self.head = nn.Linear(width, projection_dim)

    def forward(self, photos: Tensor) -> Tensor:
        embedded: Tensor = self.head(self.visual(photos))
        return embedded


def photo_preprocessing(
    model_name: str | None, model_kwargs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return how photos are prepared for an encoder, as its pretraining did.

    Parameters
    ----------
    model_name : str or None
        As of :class:`PhotoEncoder`. The paper's ViT-B/16 gets photos as mmlearn's project prepares
        them, which is not as timm says; so does an encoder without a name.
    model_kwargs : mapping, optional
        Its further arguments; ``img_size`` is the size if it is there.

    Returns
    -------
    dict
        ``image_size`` in pixels, ``mean`` and ``std`` of red, green and blue, from 0 to 1, and
        ``interpolation``, ``bilinear`` or ``bicubic``.

    Raises
    ------
    ValueError
        If there is no such model.
    ImportError
        If it is one of OpenCLIP, which is not installed.
    """
    kwargs = dict(model_kwargs or {})
    name = model_name or _AS_PUBLISHED[0]
    found: dict[str, Any]
    if name.partition(".")[0] in _AS_PUBLISHED:
        size = 224
        found = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bilinear"}
    elif name.startswith(OPEN_CLIP):
        with torch.device("meta"):
            clip = _open_clip(name, False, kwargs | {"device": "meta"})
        found = clip.visual.preprocess_cfg
        size = found["size"]
    else:
        import timm

        config = timm.get_pretrained_cfg(name)
        if config is None:
            raise ValueError(
                f"timm has no model {name}. timm.list_models('*vit*', pretrained=True) lists some; "
                f"models of OpenCLIP begin with {OPEN_CLIP}."
            )
        found = config.to_dict() | dict(kwargs.get("pretrained_cfg_overlay") or {})
        size = found["input_size"][-1]
    size = kwargs.get("img_size") or size
    return {
        "image_size": int(size if isinstance(size, int) else size[-1]),
        "mean": list(found["mean"]),
        "std": list(found["std"]),
        "interpolation": found["interpolation"],
    }


def _open_clip(model_name: str, pretrained: bool, kwargs: Mapping[str, Any]) -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            f"{model_name} needs OpenCLIP: pip install 'bioscan-clip[openclip]'."
        ) from error
    name, tag = model_name.removeprefix(OPEN_CLIP), None
    if ":" not in name:
        name, _, tag = name.partition("/")
    size = {"force_image_size": kwargs["img_size"]} if "img_size" in kwargs else {}
    others = {key: value for key, value in kwargs.items() if key != "img_size"}
    return open_clip.create_model(
        name,
        pretrained=tag or None,
        load_weights=pretrained,
        pretrained_text=False,
        **size,
        **others,
    )


def _fitting(peft_config: "PeftConfig | None", model: nn.Module) -> "PeftConfig | None":
    """Return adapters of a fused query, key and value for a model that has another layer there."""
    targets = set(getattr(peft_config, "target_modules", None) or ())
    layers = {name.rpartition(".")[2]: layer for name, layer in model.named_modules()}
    if peft_config is None or "qkv" not in targets or "qkv" in layers:
        return peft_config
    fitting: LoraConfig = copy(peft_config)
    instead = {"q_proj", "k_proj", "v_proj"} if "q_proj" in layers else {"attn"}
    fitting.target_modules = targets - {"qkv"} | instead
    return fitting
