"""What a training step does and does not do: with the sample's encoders, on invented batches."""

from contextlib import nullcontext
from functools import partial

import lightning as L
import pytest
import torch
from mmlearn.modules.encoders import TimmViT
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks import ContrastivePretraining
from peft import LoraConfig
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from projects.bioscan_clip.datasets.transforms import POSE, finish_batch
from projects.bioscan_clip.encoders import BERT_SAMPLE, BarcodeBERT, TextEncoder
from projects.bioscan_clip.encoders.speed import (
    checkpoint_activations,
    compile_encoder,
    compile_function,
)
from projects.bioscan_clip.tasks import BioscanPretraining, ChunkedContrastiveLoss, pretraining

BATCH, STEPS, SIZE = 6, 3, 16
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def lora(targets, **options) -> LoraConfig:
    return LoraConfig(r=2, target_modules=targets, **options)


def task(task_class=BioscanPretraining, loss=None, **options):
    """Build a task with small encoders of the published kinds, always of the same weights."""
    torch.manual_seed(0)
    vit = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    encoders = {
        "rgb": TimmViT(
            "vit_base_patch16_224",
            projection_dim=8,
            pretrained=False,
            model_kwargs=vit | options.pop("vit", {}),
            peft_config=lora(["qkv"], modules_to_save=["head"]),
        ),
        "dna": BarcodeBERT(
            1027,
            8,
            peft_config=lora(["query", "value"], modules_to_save=["decoder"]),
            model_config_kwargs=BERT,
        ),
        "text": TextEncoder(
            BERT_SAMPLE,
            pretrained=False,
            peft_config=lora(["query", "value"]),
            model_config_kwargs=BERT,
        ),
    }
    return task_class(
        encoders,
        {"text": nn.Sequential(nn.Linear(16, 8))},
        loss=loss or ChunkedContrastiveLoss(),
        optimizer=partial(torch.optim.AdamW, lr=1e-2, fused=True),
        **options,
    )


def batch(number: int, specimens: int = BATCH) -> dict:
    draw = torch.Generator().manual_seed(number)
    ids = torch.stack([torch.zeros(specimens).long(), torch.arange(specimens)], dim=1)
    lengths = torch.arange(15, 15 + specimens)
    shape = (specimens, 3, SIZE, SIZE)
    return {
        "rgb": torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw),
        POSE: torch.eye(2).repeat(specimens, 1, 1),
        "dna": torch.randint(0, 1027, (specimens, 133), generator=draw),
        "text": torch.randint(0, 1000, (specimens, 20), generator=draw),
        "text_attention_mask": (torch.arange(20) < lengths[:, None]).long(),
        "example_ids": dict.fromkeys(("rgb", "dna", "text"), ids),
    }


def train(model: L.LightningModule, batches: list[dict], **options) -> list[float]:
    """Return the losses of an epoch."""
    losses = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            losses.append(outputs["loss"].detach())

    trainer = L.Trainer(
        accelerator=options.pop("accelerator", "cpu"),
        devices=1,
        max_epochs=options.pop("max_epochs", 1),
        callbacks=[Losses(), *options.pop("callbacks", [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, DataLoader(batches, batch_size=None))
    return [float(loss) for loss in losses]


def test_a_training_equals_mmlearn_s():
    batches = [batch(number) for number in range(STEPS)]
    ours, theirs = task(), task(ContrastivePretraining, ContrastiveLoss())
    losses = train(ours, batches)
    assert losses == pytest.approx(train(theirs, [finish_batch(b) for b in batches]), rel=1e-5)
    assert losses[0] != losses[1]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-5)


class NoLooks(TorchDispatchMode):
    """Refuses what needs to know a tensor's values, and so waits for a GPU to compute them."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        looks = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "unique", "lift")
        assert not any(look in name for look in looks if look != "equal" or name == "equal"), name
        return function(*args, **(kwargs or {}))


class WatchStep(L.Callback):
    """From a batch's arrival where the model is to the end of its step; not the first one's."""

    steps = 0

    def on_train_batch_start(self, *_):
        self.mode = NoLooks() if self.steps else nullcontext()
        self.mode.__enter__()
        if self.steps and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_):
        self.mode.__exit__(None, None, None)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        self.steps += 1


@pytest.mark.parametrize("accelerator", ["cpu"] + ["gpu"] * torch.cuda.is_available())
def test_nothing_in_a_step_waits_for_the_device(accelerator):
    watch = WatchStep()
    batches = [batch(number) for number in range(STEPS)]
    train(task(), batches, callbacks=[watch], accelerator=accelerator)
    assert watch.steps == STEPS


def test_a_look_is_noticed():
    with pytest.raises(AssertionError, match="nonzero"), NoLooks():
        torch.ones(2).nonzero()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoLooks():
        torch.ones(2).sum().item()


def test_barcodes_are_attended_to_without_a_mask():
    """Of which fused attention would be slower: all positions count."""
    masks = []

    class Attention(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "attention" in function.overloadpacket.__name__:
                masks.append((kwargs or {}).get("attn_mask"))
            return function(*args, **(kwargs or {}))

    encoder = task().encoders["dna"]
    with torch.no_grad(), Attention():
        encoder(batch(0))
    assert masks == [None] * BERT["num_hidden_layers"]


def test_ids_that_differ_or_repeat_are_compared():
    twice = batch(0)
    twice["example_ids"] = dict.fromkeys(twice["example_ids"], torch.zeros(BATCH, 2).long())
    assert train(task(), [twice]) == pytest.approx(
        train(task(ContrastivePretraining, ContrastiveLoss()), [finish_batch(twice)]), rel=1e-5
    )


def equal_steps(batches: list[dict], precision: str = "32-true", **options) -> None:
    """Check that options change no loss and no weight beyond rounding."""
    plain, other = task(), task(**options)
    losses = [train(model, batches, precision=precision) for model in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(
        dict(plain.named_parameters()), dict(other.named_parameters()), check_dtype=False
    )


def test_checkpointed_layers_train_alike():
    equal_steps([batch(number) for number in range(STEPS)], checkpoint_layers=True)


def test_layers_that_cannot_be_checkpointed_are_refused():
    with pytest.raises(ValueError, match="but Linear holds none"):
        checkpoint_activations(nn.Linear(2, 2))


@pytest.mark.parametrize("options", [{}, {"checkpoint_layers": True}], ids=str)
def test_compiled_encoders_train_alike(monkeypatch, options):
    """Traced as a whole, by a backend that needs no compiler; smaller batches are not traced."""
    shapes = []

    def trace(graph, examples):
        shapes.append(len(examples))
        return graph.forward

    for compiles in (compile_encoder, compile_function):
        monkeypatch.setattr(pretraining, compiles.__name__, partial(compiles, backend=trace))
    equal_steps([batch(0), batch(1), batch(2, BATCH - 2)], compile_encoders=True, **options)
    assert len(shapes) == 4  # three encoders, and what finishes photos


def test_compiled_by_inductor_they_train_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    equal_steps([batch(0), batch(1)], compile_encoders=True)
    assert any(tmp_path.rglob("*.so"))


def test_frozen_weights_in_half_precision_train_alike():
    plain, halved = task(), task(frozen_in_half=True)
    batches = [batch(number) for number in range(STEPS)]
    losses = [train(model, batches, precision="bf16-mixed") for model in (plain, halved)]
    assert losses[0] == losses[1]
    for (name, weight), twin in zip(plain.named_parameters(), halved.parameters(), strict=True):
        if weight.requires_grad:
            assert weight.equal(twin), name
        else:
            assert twin.equal(weight.to(twin.dtype)), name
    assert sum(p.dtype == torch.bfloat16 for p in halved.parameters()) > 20
    saved = {"state_dict": halved.state_dict()}
    halved.on_save_checkpoint(saved)
    assert {w.dtype for w in saved["state_dict"].values()} == {
        w.dtype for w in plain.state_dict().values()
    }


def test_frozen_weights_in_half_need_mixed_precision():
    with pytest.raises(ValueError, match="not 32-true"):
        train(task(frozen_in_half=True), [batch(0)])


def test_patches_are_kept_in_the_last_epoch():
    model = task(vit={"patch_drop_rate": 0.5})
    seen = []
    model.encoders["rgb"].model.blocks[0].register_forward_pre_hook(
        lambda block, inputs: seen.append(inputs[0].shape[1])
    )
    train(model, [batch(0)], max_epochs=2)
    assert seen == [1 + 2, 1 + 4]


def test_a_gpu_copies_while_it_computes(monkeypatch):
    """Without one: what is asked of it, and in which order."""
    asked = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            asked.append(f"on {self.name}")

        def __exit__(self, *_):
            asked.append(f"no longer on {self.name}")

        def wait_stream(self, other):
            asked.append(f"{self.name} waits for {other.name}")

    computing, copying = Stream("computing"), Stream("copying")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copying)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: asked.append(f"used by {stream.name}")
    )
    monkeypatch.setattr(
        ContrastivePretraining,
        "transfer_batch_to_device",
        lambda self, batch, device, index: asked.append(f"to {device}") or batch,
    )
    given = {"rgb": torch.ones(2), "example_ids": {"rgb": torch.ones(2)}, "names": ["a", "b"]}
    assert task().transfer_batch_to_device(given, torch.device("cuda:7"), 0) is given
    assert asked == [
        *("on copying", "to cuda:7", "no longer on copying"),
        *("computing waits for copying", "used by computing", "used by computing"),
    ]
