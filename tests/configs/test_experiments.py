"""Every experiment composes and becomes real objects, with every option of its groups."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cloudpickle
import mmlearn.cli.run
import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict
from transformers import BertConfig, BertForTokenClassification, BertModel

from projects.bioscan_clip.configs.checks import CheckOptions
from projects.bioscan_clip.datasets.schema import SPLITS_1M, SPLITS_5M
from projects.bioscan_clip.datasets.transforms import CLIP_MEAN
from projects.bioscan_clip.tasks import LabelAwareContrastiveLoss

SEARCH_PATH = "hydra.searchpath=[pkg://projects.bioscan_clip.configs]"
ROOT = str(Path(__file__).parents[2])
FULL_SIZE = ("bioscan_1m", "bioscan_5m")


def composed(experiment: str, *overrides: str):
    return compose("base_config", overrides=[f"+experiment={experiment}", *overrides])


def evaluated(config) -> list:
    return [*config.datasets.val.values(), *config.datasets.test.values()]


def trainable(module: torch.nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


@pytest.fixture
def pretrained(tmp_path_factory, monkeypatch) -> list[str]:
    """Overrides that put small files in the formats of the published weights in their place."""
    folder = tmp_path_factory.mktemp("weights")
    BertModel(
        BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(folder / "bert")
    yield [
        f"task.encoders.text.model_name_or_path={folder / 'bert'}",
        "task.heads.text.in_dim=64",
        "task.encoders.rgb.pretrained=false",
        "task.encoders.rgb.model_name=vit_tiny_patch16_224",
        "task.encoders.dna.pretrained_checkpoint_path=null",
        "+task.encoders.dna.model_config_kwargs={num_hidden_layers: 1}",
    ]
    shutil.rmtree(folder)


def test_options_of_the_benchmark_of_recipes_compose(monkeypatch):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(benchmarks)
    recipes = runpy.run_path(str(benchmarks / "recipes.py"))
    test = [recipes["PHOTOS"], *recipes["TRAINING"], *recipes["TEST"]]
    for training, options in recipes["OPTIONS"].values():
        config = composed("bioscan_sample", *test, *recipes["TRAININGS"][training], *options)
        assert config.task.evaluation_tasks.tax_cls.task.corruption == "all"
        assert config.datasets.test.seen_split.image_size == 48


def test_robust_changes_the_test_alone():
    plain, robust = (composed("bioscan_sample", *option) for option in ([], ["recipe=robust"]))
    task = robust.task.evaluation_tasks.tax_cls.task
    assert task.correct_barcodes
    assert task.test_time_views
    task.correct_barcodes = task.test_time_views = False
    assert robust == plain


def test_one_word_makes_training_on_gpus_quicker():
    task = composed("bioscan_1m", "+speed=gpu").task
    assert task.compile_encoders
    assert task.frozen_in_half
    assert task.loss._target_.endswith("ChunkedContrastiveLoss")


def test_barcodes_are_augmented_in_training_alone_and_if_asked_for():
    option = "datasets.train.barcode_augmentation"
    assert not composed("bioscan_sample").datasets.train.barcode_augmentation
    config = composed("bioscan_sample", f"{option}=true")
    assert config.datasets.train.barcode_augmentation
    assert not any(split.barcode_augmentation for split in evaluated(config))


@pytest.mark.parametrize("experiment", FULL_SIZE)
def test_published_recipe(experiment, monkeypatch):
    monkeypatch.setenv("BARCODEBERT_5MER", "/weights/model_41.pth")
    monkeypatch.setenv(f"{experiment.upper()}_HDF5", "/data/file.hdf5")
    config = composed(experiment)
    task = config.task
    assert task.encoders.rgb.model_name == "vit_base_patch16_224"
    assert task.encoders.rgb.pretrained
    assert task.encoders.dna.pretrained_checkpoint_path == "/weights/model_41.pth"
    assert task.encoders.dna.vocab_size == 1027
    assert task.encoders.text.model_name_or_path == "prajjwal1/bert-small"
    assert task.encoders.text.pooling == "mean"
    assert (task.heads.text.in_dim, task.heads.text.out_dim) == (512, 768)
    assert (task.optimizer.lr, task.optimizer.eps) == (1e-3, 1e-6)
    schedule = task.lr_scheduler.scheduler
    assert (schedule.max_lr, schedule.pct_start, schedule.anneal_strategy) == (1e-3, 0.3, "cos")
    assert schedule.total_steps is None
    assert task.loss.gather_with_grad
    assert (config.seed, config.dataloader.train.batch_size) == (0, 400)
    assert (config.trainer.max_epochs, config.trainer.precision) == (15, "16-mixed")
    assert config.datasets.train.split == "no_split_and_seen_train"
    assert config.datasets.train.for_training
    for stage in ("val", "test"):
        of_stage = config.datasets[stage]
        splits = {part: dataset.split for part, dataset in of_stage.items()}
        assert splits == {
            "keys_split": "all_keys",
            "seen_split": f"{stage}_seen",
            "unseen_split": f"{stage}_unseen",
            **(
                {"tuning_seen_split": "val_seen", "tuning_unseen_split": "val_unseen"}
                if stage == "test"
                else {}
            ),
        }
        assert not any(dataset.for_training for dataset in of_stage.values())
        assert all(d.path_to_hdf5_file == "/data/file.hdf5" for d in of_stage.values())
    known_splits = SPLITS_1M if experiment == "bioscan_1m" else SPLITS_5M
    datasets = [config.datasets.train, *evaluated(config)]
    assert {dataset.split for dataset in datasets} <= set(known_splits)
    tokenizer = config.datasets.train.tokenizer
    assert (tokenizer.k, tokenizer.stride, tokenizer.max_length) == (5, 5, 660)


def variables(config) -> list[str]:
    return [dataset.path_variable for dataset in [config.datasets.train, *evaluated(config)]]


def test_one_word_changes_all_data_and_a_longer_one_some():
    assert set(variables(composed("bioscan_1m", "data=BIOSCAN-5M"))) == {"BIOSCAN_5M_HDF5"}
    config = composed("bioscan_1m", "datasets@datasets.train=BIOSCAN-5M")
    assert variables(config) == ["BIOSCAN_5M_HDF5"] + ["BIOSCAN_1M_HDF5"] * 8


def test_photos_have_the_size_that_their_encoder_takes():
    for experiment, options, size in (
        ("bioscan_1m", (), 224),
        ("bioscan_1m", ("+task.encoders.rgb.model_kwargs={img_size: 160}",), 160),
        ("bioscan_sample", (), 80),
        ("bioscan_sample", ("data=BIOSCAN-1M",), 80),
    ):
        config = composed(experiment, *options)
        datasets = [config.datasets.train, *evaluated(config)]
        assert {dataset.image_size for dataset in datasets} == {size}


def test_photos_are_prepared_as_their_encoder_was_pretrained():
    name, imagenet = "task.encoders.rgb.model_name", [0.485, 0.456, 0.406]
    other = "modules/encoders@task.encoders.rgb=photo-encoder-lora"
    for options, mean, interpolation, size in (
        ([], list(CLIP_MEAN), "bilinear", 224),
        ([f"{name}=vit_base_patch14_dinov2.lvd142m"], imagenet, "bicubic", 518),
        (
            [other, f"{name}=vit_base_patch16_dinov3.lvd1689m"],
            imagenet,
            "bicubic",
            256,
        ),
        ([f"{name}=vit_base_patch16_siglip_224.v2_webli"], [0.5, 0.5, 0.5], "bicubic", 224),
    ):
        config = composed("bioscan_1m", *options)
        assert config.task.image_mean == mean
        for dataset in [config.datasets.train, *evaluated(config)]:
            assert dataset.interpolation == interpolation
            assert dataset.image_size == size


def test_the_search_path_may_also_be_given():
    assert composed("bioscan_1m", SEARCH_PATH) == composed("bioscan_1m")


def test_runs_of_one_second_have_folders_of_their_own():
    folders = set()
    for _ in range(3):
        config = compose("base_config", ["+experiment=bioscan_1m"], return_hydra_config=True)
        assert config.hydra.sweep.dir == config.hydra.run.dir
        folders.add(config.hydra.run.dir)
    assert len(folders) == 3
    assert all(Path(folder).parts[:2] == ("outputs", "bioscan_1m") for folder in folders)


def test_processes_of_a_slurm_step_share_a_folder_which_a_requeued_job_keeps(monkeypatch):
    """In their environment, a step of one process may be a shell, in which runs follow runs."""

    def folder(tasks: int, **variables: str) -> str:
        step = {"JOB_ID": "12", "STEP_ID": "0", "STEP_NUM_TASKS": str(tasks), **variables}
        for name, value in step.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        config = compose("base_config", ["+experiment=bioscan_1m"], return_hydra_config=True)
        return config.hydra.run.dir

    same = {folder(2), folder(2, PROCID="1"), folder(2, RESTART_COUNT="1")}
    assert same == {"./outputs/bioscan_1m/slurm-12-0"}
    assert len(same | {folder(2, STEP_ID="1"), folder(2, JOB_ID="13"), folder(1), folder(1)}) == 5


@pytest.mark.parametrize(
    "wrong", ["experiment_name=../x", "experiment_name=/tmp/x", "experiment_name=.", "seed=-1"]
)
def test_wrong_options_end_in_a_sentence(wrong):
    with pytest.raises(SystemExit, match=f"^{re.escape(wrong)}: "):
        CheckOptions().on_run_start(composed("bioscan_1m", wrong))


def test_a_wrong_option_ends_mmlearn_run_before_it_makes_a_folder(tmp_path):
    """In a process of its own, which also finds the experiment without `hydra.searchpath`."""
    program = Path(sys.executable).parent / "mmlearn_run"
    command = [program, "+experiment=bioscan_1m", "experiment_name=a/b"]
    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "experiment_name=a/b: it names a folder" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("experiment", [*FULL_SIZE, "bioscan_sample"])
def test_nothing_needs_slurm_or_a_user(experiment, monkeypatch):
    for variable in ("SLURM_JOB_ID", "USER", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    printed = OmegaConf.to_yaml(composed(experiment))
    assert "SLURM" not in printed
    assert "oc.env:USER" not in printed
    assert "dirpath: ${hydra:runtime.output_dir}/checkpoints" in printed


ADAPTED = {
    "qv": {"rgb": {"qkv"}, "dna": {"query", "value"}, "text": {"query", "value"}},
    "qkv": {"rgb": {"qkv"}, "dna": {"query", "key", "value"}, "text": {"query", "key", "value"}},
    "clibd": {"rgb": {"qkv"}, "dna": {"query", "value"}, "text": {"query", "value"}},
}


@pytest.mark.parametrize("lora", ADAPTED)
def test_lora_adapts_what_it_says(pretrained, lora):
    encoders = instantiate(composed("bioscan_1m", *pretrained, f"lora={lora}").task.encoders)
    for modality, layers in ADAPTED[lora].items():
        names = trainable(encoders[modality])
        assert {
            name.split(".lora_")[0].split(".")[-1] for name in names if ".lora_" in name
        } == layers
        rest = {name for name in names if ".lora_" not in name}
        head = {"rgb": "head", "dna": "decoder", "text": None}[modality]
        assert all(head in name for name in rest)
        assert bool(rest) == (head is not None)


def test_recipe_of_clibd_trains_all_weights_in_one_cycle():
    config = composed("bioscan_1m", "recipe=clibd")
    assert all(encoder.peft_config is None for encoder in config.task.encoders.values())
    assert (config.trainer.max_epochs, config.dataloader.train.batch_size) == (50, 500)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = instantiate(config.task.optimizer)([weight])
    scheduler = instantiate(config.task.lr_scheduler.scheduler)(optimizer, total_steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(rates) < 100 else None
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == rates[29] == pytest.approx(5e-5)


def test_a_barcode_bert_of_another_k_tells_tokenizer_and_layers(tmp_path, monkeypatch):
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForTokenClassification(BertConfig(vocab_size=4**3 + 2, **sizes))
    bert.save_pretrained(tmp_path)
    monkeypatch.setenv("BARCODEBERT", str(tmp_path))
    config = composed("bioscan_1m", "+barcode_bert=from_file")
    for split in (config.datasets.train, *evaluated(config)):
        tokenizer = instantiate(split.tokenizer)
        assert (tokenizer.k, tokenizer.stride, tokenizer.vocab_size) == (3, 3, 66)
    encoder = instantiate(config.task.encoders.dna, _convert_="partial")
    assert encoder.model.base_model.model.bert.embeddings.word_embeddings.num_embeddings == 66


def test_lora_rank_and_scale(pretrained):
    for lora, scale in (("qv", 2.0), ("qkv", 2.0), ("clibd", 1.0)):
        encoders = instantiate(composed("bioscan_1m", *pretrained, f"lora={lora}").task.encoders)
        for encoder in encoders.values():
            layers = [
                m for m in encoder.modules() if hasattr(m, "scaling") and hasattr(m, "lora_A")
            ]
            assert layers
            assert all(layer.scaling["default"] == scale for layer in layers)
            assert all(layer.r["default"] == 4 for layer in layers)


def test_lora_none_trains_everything(pretrained):
    encoders = instantiate(composed("bioscan_1m", *pretrained, "lora=none").task.encoders)
    assert "model.blocks.0.attn.qkv.weight" in trainable(encoders["rgb"])
    assert "model.bert.embeddings.word_embeddings.weight" in trainable(encoders["dna"])
    assert not any("lora" in name for name in trainable(encoders["text"]))


@pytest.mark.parametrize(
    ("modalities", "pairs"),
    [
        ("image_dna_text", {("rgb", "dna"), ("rgb", "text"), ("dna", "text")}),
        ("image_dna", {("rgb", "dna")}),
        ("image_text", {("rgb", "text")}),
    ],
)
def test_modalities_decide_about_loss_pairs(tmp_path, modalities, pairs):
    output_dir = "task.evaluation_tasks.tax_cls.task.output_dir=" + str(tmp_path)
    config = composed("bioscan_sample", f"modalities={modalities}", output_dir)
    task = instantiate(config.task, _convert_="partial")
    assert {tuple(pair.modalities) for pair in task.modality_loss_pairs} == pairs
    named = {name for pair in pairs for name in pair}
    assert set(task.encoders) == named
    assert set(task.heads or {}) == named & {"text"}


def test_label_aware_loss_is_an_option():
    config = composed(
        "bioscan_sample",
        "modules/losses@task.loss=LabelAwareContrastiveLoss",
        "task.loss.positives=species",
    )
    loss = instantiate(config.task.loss)
    assert isinstance(loss, LabelAwareContrastiveLoss)
    assert loss.positives == "species"


def test_retrieval_is_an_option():
    config = composed(
        "bioscan_sample", "+eval_task@task.evaluation_tasks.retrieval.task=CrossModalRetrieval"
    )
    spec = config.task.evaluation_tasks.retrieval
    assert (spec.run_on_validation, spec.run_on_test) == (True, True)
    retrieval = instantiate(spec.task, _convert_="partial")
    assert set(retrieval.metrics) == {("rgb", "dna"), ("dna", "rgb")}
    assert set(retrieval.metrics["rgb", "dna"]) == {f"rgb_to_dna_R@{k}" for k in (1, 5, 10)}


def test_submitit_can_pickle_the_job():
    """Hydra's launcher sends mmlearn's undecorated main function by value."""
    composed("bioscan_sample")
    restored = cloudpickle.loads(cloudpickle.dumps(mmlearn.cli.run.main.__wrapped__))
    assert restored.__module__ == "mmlearn.cli.run"


def test_launcher_options_of_mmlearn_are_there():
    config = composed(
        "bioscan_1m",
        "hydra.launcher.mem_gb=32",
        "hydra.launcher.qos=normal",
        "hydra.launcher.gres=gpu:2",
        "hydra.launcher.tasks_per_node=2",
        "+hydra.launcher.additional_parameters={export: ALL}",
    )
    assert config.experiment_name == "bioscan_1m"


def in_folder(folder, *overrides):
    overrides = ["+experiment=bioscan_1m", f"hydra.run.dir={folder}", *overrides]
    return compose("base_config", overrides, return_hydra_config=True)


@pytest.fixture
def trained_folder(tmp_path):
    """A folder as Hydra and a training leave it."""
    config = in_folder(tmp_path)
    with open_dict(config):
        del config.hydra
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(config, tmp_path / ".hydra" / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    return tmp_path


def test_a_training_s_folder_is_for_that_training(trained_folder):
    check = CheckOptions().on_run_start
    check(in_folder(trained_folder))
    config = in_folder(trained_folder, "dataloader.train.num_workers=0", "trainer.devices=2")
    check(config)
    assert config.hydra.output_subdir == ".hydra_resumed"  # other processes may read the first one
    for changed in ("seed=1", "task.optimizer.lr=1", "trainer.max_epochs=1"):
        part = re.escape(changed.split("=")[0])
        with pytest.raises(SystemExit, match=rf"another configuration \({part}\)\. Choose another"):
            check(in_folder(trained_folder, changed))


def test_an_option_that_is_new_does_not_make_a_training_another_one(trained_folder):
    saved = trained_folder / ".hydra" / "config.yaml"
    config = OmegaConf.load(saved)
    del config.task.optimizer.eps
    OmegaConf.save(config, saved)
    CheckOptions().on_run_start(in_folder(trained_folder))


def test_an_evaluation_leaves_a_training_s_configuration_alone(trained_folder):
    config = in_folder(trained_folder, "job_type=eval", "seed=1", "resume_from_checkpoint=x.ckpt")
    CheckOptions().on_run_start(config)
    assert config.hydra.output_subdir == ".hydra_eval"


def test_an_evaluation_needs_a_checkpoint_unless_untrained_weights_are_meant(tmp_path):
    message = r"resume_from_checkpoint=<file>, .*task\.evaluate_untrained=true"
    check = CheckOptions()
    for start in (check.on_run_start, check.on_job_start):
        with pytest.raises(SystemExit, match=message):
            start(in_folder(tmp_path, "job_type=eval"))
        start(in_folder(tmp_path, "job_type=eval", "task.evaluate_untrained=true"))
    # In a sweep, each run may have its own.
    check.on_multirun_start(in_folder(tmp_path, "job_type=eval"))
