import hashlib

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from projects.bioscan_clip.encoders import frozen
from projects.bioscan_clip.encoders.frozen import fill_in_frozen, hash_weights, leave_out_frozen
from projects.bioscan_clip.tasks.checkpoints import check_fit


class Encoder(nn.Module):
    """Frozen layers, one with an adapter; statistics of batches; a head that is trained in full."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
        layers.append(nn.Linear(8, 2))
        config = LoraConfig(r=2, target_modules=["2"], modules_to_save=["3"])
        self.model = get_peft_model(layers, config)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs)


class Task(nn.Module):
    def __init__(self, base: int, head: int = 0) -> None:
        """Take pretrained weights by one seed, and new ones by another."""
        super().__init__()
        torch.manual_seed(head)
        self.encoders = nn.ModuleDict({"rgb": Encoder(), "dna": Encoder()})
        torch.manual_seed(base)
        for name, weight in self.encoders.named_parameters():
            if not weight.requires_grad and "original_module" not in name:
                nn.init.normal_(weight)
        self.log_logit_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        return [encoder(inputs) * self.log_logit_scale for encoder in self.encoders.values()]


def inputs() -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.manual_seed(5))


def trained(base: int = 1) -> Task:
    task = Task(base)
    optimizer = torch.optim.SGD([w for w in task.parameters() if w.requires_grad], lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        sum(output.square().sum() for output in task(inputs())).backward()
        optimizer.step()
    return task.eval()


def checkpoint(task: Task) -> dict:
    saved = {"state_dict": task.state_dict(), "epoch": 3}
    leave_out_frozen(saved, task)
    return saved


def test_only_what_is_trained_or_random_is_kept():
    kept = set(checkpoint(trained())["state_dict"])
    assert {name.rsplit("model.", 1)[1] for name in kept if ".rgb." in name} == {
        "2.lora_A.default.weight",
        "2.lora_B.default.weight",
        "3.modules_to_save.default.weight",
        "3.modules_to_save.default.bias",
        "3.original_module.weight",
        "3.original_module.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    assert "log_logit_scale" in kept


def test_hashes_are_known_after_the_first_checkpoint(monkeypatch):
    task = trained()
    first = {"state_dict": task.state_dict()}
    hashes = leave_out_frozen(first, task)
    monkeypatch.setattr(frozen, "hash_weights", None)
    second = {"state_dict": task.state_dict()}
    assert leave_out_frozen(second, task, hashes) == hashes
    assert second[frozen.BASE_KEY] == first[frozen.BASE_KEY]


def test_it_loads_on_top_of_the_same_weights():
    """The new head starts from other random numbers, which does not matter."""
    task = trained()
    saved = checkpoint(task)
    other = Task(base=1, head=7).eval()
    assert not other(inputs())[0].equal(task(inputs())[0])
    fill_in_frozen(saved, other)
    other.load_state_dict(saved["state_dict"], strict=True)
    for ours, theirs in zip(other(inputs()), task(inputs()), strict=True):
        assert ours.equal(theirs)
    assert all(weight.equal(task.state_dict()[name]) for name, weight in other.state_dict().items())


def test_other_pretrained_weights_are_refused_and_named():
    saved = checkpoint(trained())
    other = Task(base=1)
    with torch.no_grad():
        next(iter(other.encoders["dna"].parameters()))[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"not those of this model's encoders\.dna: use the same"):
        fill_in_frozen(saved, other)
    with pytest.raises(ValueError, match=r"model's encoders\.\w+, encoders\.\w+: use the same"):
        fill_in_frozen(saved, Task(base=2))


def test_a_full_checkpoint_is_left_alone():
    full = {"state_dict": trained().state_dict()}
    fill_in_frozen(full, Task(base=2))
    assert list(full) == ["state_dict"]


def test_a_model_without_frozen_weights_is_saved_whole():
    model = nn.Linear(2, 2)
    saved = {"state_dict": model.state_dict()}
    leave_out_frozen(saved, model)
    assert list(saved["state_dict"]) == ["weight", "bias"]
    fill_in_frozen(saved, nn.Linear(2, 2))


def test_weights_of_another_experiment_are_named():
    own = trained()
    check_fit(own.state_dict(), own)
    state_dict = dict(own.state_dict())
    del state_dict["log_logit_scale"]
    state_dict["heads.text.weight"] = torch.zeros(1)
    resized = next(iter(state_dict))
    state_dict[resized] = torch.zeros(9, 9)
    message = (
        r"it lacks log_logit_scale; it has unknown heads\.text\.weight; "
        r"it has .*weight \(9, 9\) instead of \(8, 4\)\. Choose"
    )
    with pytest.raises(ValueError, match=message):
        check_fit(state_dict, own)
    check_fit(checkpoint(own)["state_dict"], own, partial=True)
    with pytest.raises(ValueError, match=r"it lacks [\w.]+, [\w.]+, [\w.]+ and \d+ more\."):
        check_fit({}, own)


def test_hash_is_of_names_types_shapes_and_bytes():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    values = np.array([[1, 2], [3, 4]], dtype="<f4").tobytes()
    expected = hashlib.blake2b(b"a.b.c torch.float32 (2, 2)\n" + values, digest_size=16)
    assert hash_weights({"a.b.c": weight}) == {"a.b": expected.hexdigest()}
    others = [
        {"a.b.d": weight},
        {"a.b.c": weight.T},
        {"a.b.c": weight.flatten()},
        {"a.b.c": weight.double()},
        {"a.b.c": weight.view(torch.int32)},
        {"a.b.c": torch.nextafter(weight, torch.tensor(9.0))},
    ]
    assert len({hash_weights(other)["a.b"] for other in [{"a.b.c": weight}, *others]}) == 7


def test_hash_does_not_depend_on_order_or_layout_in_memory():
    one, two = torch.randn(3, 4), torch.randn(()).bfloat16()
    expected = hash_weights({"x.y.one": one, "x.y.two": two})
    assert hash_weights({"x.y.two": two, "x.y.one": one.T.contiguous().T}) == expected
    assert hash_weights({"x.y.one": one, "x.y.two": two, "z.z.z": two})["x.y"] == expected["x.y"]
