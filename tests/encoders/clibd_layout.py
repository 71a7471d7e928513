"""CLIBD's model, small: names and shapes of its checkpoints, and what it computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, BertModel

SIZE = 32
DIMENSION = 24
_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
}


class FusedAdapters(nn.Module):
    """Adapters of query and value on a fused projection."""

    def __init__(self, qkv: nn.Linear, rank: int) -> None:
        super().__init__()
        self.qkv = qkv
        width = qkv.in_features
        for part in "qv":
            setattr(self, f"linear_a_{part}", nn.Linear(width, rank, bias=False))
            setattr(self, f"linear_b_{part}", nn.Linear(rank, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query = query + self.linear_b_q(self.linear_a_q(x))
        value = value + self.linear_b_v(self.linear_a_v(x))
        return torch.cat([query, key, value], dim=-1)


class Adapter(nn.Module):
    """An adapter on a linear layer."""

    def __init__(self, w: nn.Linear, rank: int) -> None:
        super().__init__()
        self.w = w
        self.w_a = nn.Linear(w.in_features, rank, bias=False)
        self.w_b = nn.Linear(rank, w.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w(x) + self.w_b(self.w_a(x))


class Clibd(nn.Module):
    """Three encoders with random weights; `lora` adapts BERTs, photos are always adapted."""

    def __init__(self, lora: bool = False, text: bool = True, rank: int = 4) -> None:
        super().__init__()
        vit = timm.create_model(
            "vit_base_patch16_224",
            num_classes=DIMENSION,
            img_size=SIZE,
            patch_size=16,
            embed_dim=64,
            depth=2,
            num_heads=1,
        )
        for block in vit.blocks:
            assert isinstance(block.attn, Attention)
            block.attn.qkv = FusedAdapters(block.attn.qkv, rank)
        self.image_encoder = _under("base_image_encoder", vit)
        dna = BertForMaskedLM(BertConfig(vocab_size=1027, **_BERT))
        dna.cls.predictions.decoder = nn.Linear(64, DIMENSION)
        self.dna_encoder = _under("base_dna_encoder", dna)
        berts = [dna.bert]
        if text:
            bert = BertModel(BertConfig(vocab_size=30522, **_BERT))
            self.language_encoder = _under("base_language_encoder", bert)
            self.language_encoder.proj = nn.Linear(64, DIMENSION)
            berts.append(bert)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        if lora:
            for bert in berts:
                for layer in bert.encoder.layer:
                    attention = layer.attention.self
                    attention.query = Adapter(attention.query, rank)
                    attention.value = Adapter(attention.value, rank)
        for parameter in self.parameters():
            if parameter.dim():
                nn.init.normal_(parameter, std=0.1)
        self.eval()

    def photos(self, rgb: Tensor) -> Tensor:
        """Embed photos of 0 to 1."""
        return F.normalize(self.image_encoder.base_image_encoder(rgb), dim=-1)

    def barcodes(self, tokens: Tensor) -> Tensor:
        """Embed barcodes, which begin with token 0."""
        scores = self.dna_encoder.base_dna_encoder(input_ids=tokens).logits
        return F.normalize(scores.softmax(dim=-1).mean(dim=1), dim=-1)

    def names(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed names."""
        bert = self.language_encoder.base_language_encoder
        hidden = bert(tokens, attention_mask=mask).last_hidden_state
        return F.normalize(self.language_encoder.proj(hidden.mean(dim=1)), dim=-1)

    def checkpoint(self, older: bool = False) -> dict[str, Tensor]:
        """Return what CLIBD saves, with the buffers of its version of transformers."""
        saved = dict(self.state_dict())
        for root in ("dna_encoder.base_dna_encoder.bert", "language_encoder.base_language_encoder"):
            if root.split(".")[0] in {name.split(".")[0] for name in saved}:
                saved[f"{root}.embeddings.position_ids"] = torch.arange(512)[None]
        if not older:
            return saved
        del saved["logit_scale"]
        renamed = {
            "base_image_encoder": "lora_vit",
            "base_dna_encoder": "lora_barcode_bert",
            "base_language_encoder": "lora_bert",
        }
        return {_renamed(name, renamed): weight for name, weight in saved.items()}


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draw from one seed, and leave no trace."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _renamed(name: str, by: dict[str, str]) -> str:
    return ".".join(by.get(part, part) for part in name.split("."))


def _under(name: str, module: nn.Module) -> nn.Module:
    parent = nn.Module()
    parent.add_module(name, module)
    return parent
