"""CLIBD's low-rank adapters for a timm vision transformer."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


def clibd_vit_lora(
    r: int = 4,
    lora_alpha: int | None = None,
    modules_to_save: Sequence[str] = ("head",),
    target_modules: Sequence[str] = ("qkv",),
) -> LoraConfig:
    """Configure LoRA as the CLIBD paper does for its photo encoder.

    timm computes query, key and value by one layer, and PEFT would give that layer one adapter,
    shared by all three. Here query and value have an adapter each and the key none; see
    :class:`QueryValueLora`. Pass the result as `peft_config` to mmlearn's ``TimmViT``.

    Parameters
    ----------
    r : int, default=4
        Rank of each adapter.
    lora_alpha : int, optional
        The adapters' output is scaled by ``lora_alpha / r``. Defaults to `r`: the paper's adapters
        are not scaled.
    modules_to_save : sequence of str, default=("head",)
        Layers that are trained in full.
    target_modules : sequence of str, default=("qkv",)
        Layers with fused query, key and value.

    Returns
    -------
    peft.LoraConfig
        Valid in this process only: PEFT writes no custom layers to ``adapter_config.json``, so save
        and load the encoder's state dict, not the adapter by PEFT's ``save_pretrained``.
    """
    config = LoraConfig(
        r=r,
        lora_alpha=r if lora_alpha is None else lora_alpha,
        target_modules=list(target_modules),
        modules_to_save=list(modules_to_save),
    )
    config._register_custom_module({nn.Linear: QueryValueLora})
    return config


class QueryValueLora(LoraLinear):
    r"""Adapters on query and value of a fused linear layer from D to 3 D features.

    With the frozen layer's output split in ``q, k, v``, the result is [1]_

    .. math:: q + s B_q A_q x, \quad k, \quad v + s B_v A_v x, \qquad s = \alpha / r.

    Per adapter, ``lora_A`` stacks :math:`A_q` and :math:`A_v` to one weight of shape ``(2 r, D)``,
    and ``lora_B`` holds :math:`B_q` and :math:`B_v` as one of shape ``(2, D, r)``. A starts from
    the uniform distribution of :class:`torch.nn.Linear`, B from zero. Dropout, scaling, merging and
    switching off are PEFT's.

    Raises
    ------
    ValueError
        If the layer's output is not three times its input.

    References
    ----------
    .. [1] https://github.com/bioscan-ml/clibd, ``bioscanclip/model/image_encoder.py``
    """

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any
    ) -> None:
        """Add an adapter; PEFT calls this."""
        if self.out_features != 3 * self.in_features:
            raise ValueError(
                f"`target_modules` must name layers with fused query, key and value, but "
                f"{kwargs.get('target_name') or 'one of them'} maps {self.in_features} to "
                f"{self.out_features} features."
            )
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        # PEFT has set up rank, scaling and dropout, and one adapter for all of q, k and v.
        self.lora_A[adapter_name] = nn.Linear(self.in_features, 2 * r, bias=False)
        self.lora_B[adapter_name] = _QueryValueUp(self.in_features, r)
        self.reset_lora_parameters(adapter_name, config.init_lora_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return what merging an adapter adds to the layer's weight, shape ``(3 D, D)``."""
        down_query, down_value = self.lora_A[adapter].weight.chunk(2)
        up_query, up_value = self.lora_B[adapter].weight
        query = up_query @ down_query
        value = up_value @ down_value
        delta: Tensor = torch.cat([query, torch.zeros_like(query), value]) * self.scaling[adapter]
        return delta


class _QueryValueUp(nn.Module):
    """Map ``(..., 2 r)``, A's outputs, to ``(..., 3 D)``: query, zeros for the key, value."""

    def __init__(self, features: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, features, rank))

    def forward(self, low: Tensor) -> Tensor:
        low_query, low_value = low.chunk(2, dim=-1)
        query = F.linear(low_query, self.weight[0])
        value = F.linear(low_value, self.weight[1])
        return torch.cat([query, torch.zeros_like(query), value], dim=-1)
