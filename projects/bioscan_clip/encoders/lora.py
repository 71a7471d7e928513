"""Low-rank adapters that are quick, and CLIBD's for a timm vision transformer."""

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


class FusedLora(LoraLinear):
    r"""PEFT's adapter of a linear layer, added to the layer's output by one matrix product.

    PEFT computes :math:`W x + b`, then :math:`B A x`, scales it and adds it: three passes over what
    is as large as the output, and two backward. Here :math:`B`, which is small, is scaled, and the
    product adds to the output. Whatever PEFT's layer can do besides, merging, switching off or
    several adapters, is left to it.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map ``(..., D)`` to ``(..., D')``."""
        adapter = self._only_adapter()
        if adapter is None or args or kwargs:
            mapped: Tensor = super().forward(x, *args, **kwargs)
            return mapped
        if torch.is_autocast_enabled(x.device.type):  # once, not for each product
            x = x.to(torch.get_autocast_dtype(x.device.type))
        low = F.linear(self.lora_dropout[adapter](x), self.lora_A[adapter].weight)
        up = self.scaling[adapter] * self.up_weight(adapter)
        result = self.base_layer(x)
        added: Tensor = torch.addmm(result.flatten(0, -2), low.flatten(0, -2), up.T)
        return added.view(result.shape)

    def up_weight(self, adapter: str) -> Tensor:
        """Return what maps A's outputs to the layer's, shape ``(D', r)``."""
        weight: Tensor = self.lora_B[adapter].weight
        return weight

    def _only_adapter(self) -> str | None:
        """Return the one adapter that is to be added to the layer, if it is a plain one."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1 or self.lora_variant:
            return None
        return None if getattr(self.lora_B[active[0]], "bias", None) is not None else active[0]


def fuse_adapters(model: nn.Module) -> None:
    """Let each of PEFT's plain adapters of linear layers be a :class:`FusedLora`.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Names and values of its parameters stay.
    """
    for layer in model.modules():
        if type(layer) is LoraLinear:
            layer.__class__ = FusedLora


class QueryValueLora(FusedLora):
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

    def up_weight(self, adapter: str) -> Tensor:
        """Return what maps A's outputs to query, key and value, shape ``(3 D, 2 r)``."""
        up_query, up_value = self.lora_B[adapter].weight
        features, rank = up_query.shape
        up: Tensor = F.pad(up_query, (0, rank, 0, 2 * features))
        return up + F.pad(up_value, (rank, 0, 2 * features, 0))

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return what merging an adapter adds to the layer's weight, shape ``(3 D, D)``."""
        delta: Tensor = (
            self.scaling[adapter] * self.up_weight(adapter) @ self.lora_A[adapter].weight
        )
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
