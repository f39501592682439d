import signal

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from cases import disturb, equal, weights

import scfoundry as sf
from scfoundry.model.cellplm._config import CellPLMConfig
from scfoundry.model.cellplm._objectives import draw_mask, keep_cells
from scfoundry.train.manners import interruptible
from scfoundry.train.plan import ContextDataModule


@pytest.mark.parametrize("likelihood", ["nb", "mse"])
def test_learns_embeds_saves_and_loads(trainable, quick, latent, likelihood, tmp_path):
    model = trainable(latent=latent, likelihood=likelihood)
    model.train(**(quick | {"max_epochs": 8}))
    loss = model.history["reconstruction_train"].iloc[:, 0].astype(float)
    assert loss.iloc[-1] < loss.iloc[0]
    assert {"loss_validation", "reconstruction_validation", "latent_validation"} <= set(model.history)

    embedding = model.get_latent_representation(device="cpu")
    assert embedding.shape == (model.adata.n_obs, model.config.n_latent)
    assert embedding.dtype == np.float32

    model.save(tmp_path / "model")
    loaded = sf.model.CellPLM.load(tmp_path / "model", model.adata, accelerator="cpu")
    assert equal(weights(model), weights(loaded))
    np.testing.assert_array_equal(loaded.get_latent_representation(device="cpu"), embedding)


def test_a_loaded_model_needs_no_data(trainable, quick, make_adata, tmp_path):
    model = trainable()
    model.train(**quick)
    model.save(tmp_path / "model")
    loaded = sf.model.CellPLM.load(tmp_path / "model", adata=False, accelerator="cpu")
    adata = make_adata(seed=5)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(adata, device="cpu"), model.get_latent_representation(adata, device="cpu")
    )
    with pytest.raises(ValueError, match="loaded without data: pass it"):
        loaded.get_latent_representation()


def test_the_registry_of_the_data_holds_plain_values(trainable):
    assert trainable().registry["setup_args"] == {
        "layer": None,
        "batch_key": "batch",
        "spatial_key": None,
        "labels_key": None,
    }


def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(trainable, quick):
    models = [trainable() for _ in range(3)]
    for model, seed in zip(models, [0, 0, 1], strict=True):
        model.train(**quick, seed=seed)
    first, again, other = map(weights, models)
    assert equal(first, again)
    assert not equal(first, other)


def test_the_callers_random_numbers_are_left_alone(trainable, quick):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    trainable().train(**quick)
    torch.testing.assert_close(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002


def test_training_is_quiet_about_lightning(trainable, quick, caplog):
    trainable().train(**quick)
    assert not [record for record in caplog.records if record.name.startswith("lightning")]


def test_interrupted_training_resumes_to_the_same_weights(trainable, quick, tmp_path):
    """Learning rate held constant: a cosine would aim at another last step."""
    through = trainable()
    through.train(**(quick | {"max_epochs": 4}))

    interrupted = trainable()
    interrupted.train(**(quick | {"max_epochs": 2}), checkpoint_dir=tmp_path)
    resumed = trainable()
    disturb(resumed)
    resumed.train(**(quick | {"max_epochs": 4}), checkpoint_dir=tmp_path)
    assert equal(weights(through), weights(resumed))


class Interruption(pl.Callback):
    """What Ctrl-C does in the middle of an epoch."""

    def on_train_batch_end(self, *args):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def heeds_interrupts():
    """A process started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interruption_is_one_to_the_caller_too(trainable, quick):
    handler = signal.getsignal(signal.SIGINT)
    model = trainable()
    with pytest.raises(KeyboardInterrupt):
        model.train(**quick, callbacks=[Interruption()])
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    model.train(**quick)
    assert model.is_trained


def test_only_what_an_interruption_ended_is_one():
    with pytest.raises(SystemExit, match="3"), interruptible():
        raise SystemExit(3)
    with pytest.raises(ValueError, match="other"), interruptible():
        raise ValueError("other")  # noqa: EM101


def test_a_damaged_checkpoint_is_not_silently_restarted(trainable, quick, tmp_path):
    trainable().train(**quick, checkpoint_dir=tmp_path)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="could not be read as a torch file"):
        trainable().train(**quick, checkpoint_dir=tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lr": 5e-3}, "lr 0.001, not 0.005"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"schedule": "cosine"}, "schedule constant, not cosine"),
        ({"part_lrs": {"embedder": 1e-4}}, "part_lrs none, not 0.0001"),
        ({"max_epochs": 1}, "after 2 epochs, but the training is to end after 1"),
        ("cells", "cells .*, not"),
        ("genes", "genes .*, not"),
        ("size", "parameters .*, not"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_training_is_refused(trainable, quick, make_adata, tmp_path, other, message):
    trainable().train(**quick, checkpoint_dir=tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    adata = make_adata(80, n_batches=4)
    adata.obs_names = [f"{'new' if other == 'cells' else ''}{name}" for name in adata.obs_names]
    if other == "genes":
        adata = adata[:, ::-1].copy()
    model = trainable(adata, **({"n_latent": 16} if other == "size" else {}))
    with pytest.raises(ValueError, match=rf"{message}.*checkpoint_dir='.*_2'"):
        model.train(**(quick | (other if isinstance(other, dict) else {})), checkpoint_dir=tmp_path)
    assert not model.is_trained
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_checkpoint_lies_in_the_home_folder_that_is_meant(trainable, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    trainable().train(**quick, checkpoint_dir="~/run")
    assert (tmp_path / "home" / "run" / "last.ckpt").exists()
    assert not (tmp_path / "~").exists()


def test_pretrained_weights_are_fine_tuned_without_their_batches(trainable, quick, make_adata, tmp_path):
    source = trainable()
    source.train(**quick)
    source.save_pretrained(tmp_path)
    adata = make_adata(60, n_batches=2, seed=3)
    sf.model.CellPLM.setup_anndata(adata, batch_key="batch")
    tuned = sf.model.CellPLM.from_pretrained(tmp_path, adata)
    before = weights(tuned)
    tuned.train(**quick)
    after = weights(tuned)
    table = "decoder.labels.0.batch.table.weight"
    assert torch.equal(before[table], after[table])
    assert not torch.equal(before["embedder.genes"], after["embedder.genes"])


def test_a_saved_model_still_knows_its_batches_and_weights_from_elsewhere_do_not(trainable, quick, tmp_path):
    """The number of batches is saved with a model; whether they are those of its data is not in the number."""
    source = trainable()
    source.train(**quick)
    source.save(tmp_path / "own")
    source.save_pretrained(tmp_path / "pretrained")
    own = sf.model.CellPLM.load(tmp_path / "own", source.adata, accelerator="cpu")
    tuned = sf.model.CellPLM.from_pretrained(tmp_path / "pretrained", source.adata)
    tuned.save(tmp_path / "tuned")
    tuned = sf.model.CellPLM.load(tmp_path / "tuned", source.adata, accelerator="cpu")
    for model, learns in ((own, True), (tuned, False)):
        before = weights(model)["decoder.labels.0.batch.table.weight"]
        model.train(**quick, weight_decay=0.0)
        assert torch.equal(before, weights(model)["decoder.labels.0.batch.table.weight"]) is not learns


def test_further_training_lengthens_the_history(trainable, quick):
    model = trainable()
    model.train(**quick)
    model.train(**quick)
    assert model.history["loss_train"].index.tolist() == [0, 1, 2, 3]
    assert model.is_trained


def test_parts_may_learn_at_rates_of_their_own(trainable, quick):
    model = trainable()
    before = weights(model)
    model.train(**quick, part_lrs={"embedder": 0.0}, weight_decay=0.0)
    after = weights(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("embedder.") for name in moved)
    assert "layers.0.attention.query.weight" in moved


def test_samples_without_coordinates_train_beside_spatial_ones(trainable, quick, make_adata):
    adata = make_adata(80, n_batches=4)
    adata.obsm["spatial"][(adata.obs["batch"] == "batch 0").to_numpy()] = np.nan
    model = trainable(adata, spatial_key="spatial")
    placeholder = weights(model)["embedder.position.placeholder"]
    model.train(**(quick | {"validation_size": 0}))
    assert not torch.equal(placeholder, weights(model)["embedder.position.placeholder"])


def test_unmeasured_genes_get_no_gradient(trainable, quick):
    model = trainable()
    genes = model.genes.ids
    before = weights(model)["decoder.mean.bias"]
    model.train(**quick, weight_decay=0.0, measured_genes={f"batch {i}": genes[:30] for i in range(4)})
    moved = (weights(model)["decoder.mean.bias"] != before).numpy()
    assert moved[:30].all()
    assert not moved[30:].any()


def test_setup_reads_the_layer(trainable, quick, make_adata):
    adata = make_adata(80, n_batches=4)
    plain, layered = trainable(adata.copy()), None
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 7
    layered = trainable(adata, layer="counts")
    for model in (plain, layered):
        model.train(**quick)
    assert equal(weights(plain), weights(layered))


def test_scaled_training_data_are_refused(trainable, quick, make_adata):
    adata = make_adata(80, n_batches=4)
    adata.X = adata.X.toarray() - 1.0
    with pytest.raises(ValueError, match=r"CellPLM.train needs .*negative"):
        trainable(adata).train(**quick)


def test_training_needs_data(tiny_model, quick):
    with pytest.raises(ValueError, match=r"nothing to train on.*setup_anndata"):
        tiny_model().train(**quick)


def test_contexts_are_split_whole(make_adata):
    from scfoundry.data.matrix.contexts import contexts

    adata = make_adata(200, n_batches=10)
    groups = contexts(adata, "batch")
    data = ContextDataModule.split(groups, cells_per_step=7, validation_size=0.3, seed=0)
    assert len(data.held_out) == 3
    assert not set(data.held_out) & set(data.visits)
    assert sorted([*data.train_idx, *data.val_idx]) == list(range(200))
    visits = pd.Series(data.visits).value_counts()
    assert all(visits[i] == -(-len(groups[i].rows) // 7) for i in visits.index)


def test_a_single_context_is_never_held_out(make_adata):
    from scfoundry.data.matrix.contexts import contexts

    data = ContextDataModule.split(contexts(make_adata()), cells_per_step=100, validation_size=0.5, seed=0)
    assert data.visits == [0]
    assert data.val_dataloader() == []


def test_cells_are_dropped_and_capped():
    config = CellPLMConfig(drop_cells=0.3, max_cells=50)
    assert len(keep_cells(10, config)) == 7
    assert len(keep_cells(1000, config)) == 50
    kept = keep_cells(100, config)
    assert torch.equal(kept, kept.unique())
    assert len(keep_cells(1, config)) == 1


def test_masks_follow_the_published_rates():
    torch.manual_seed(0)
    mask = draw_mask(4000, 500, CellPLMConfig())
    rate = mask.float().mean(1)
    chosen = rate > 0
    assert chosen.float().mean() == pytest.approx(0.75, abs=0.01)
    assert rate[chosen].mean() == pytest.approx(5 / 18, abs=0.01)  # Beta(5, 13)
    assert rate.max() < 0.97
    constant = draw_mask(4000, 500, CellPLMConfig(mask_beta=False)).float().mean(1)
    assert constant[constant > 0].mean() == pytest.approx(0.25, abs=0.01)
    assert constant.std() < rate.std()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latnet": "vae"}, "no config value 'latnet'"),
        ({"latent": "vq"}, "latent must be one of 'gmvae', 'vae', 'ae'; got 'vq'"),
        ({"n_hidden": 30}, r"n_hidden=30 must be divisible by n_heads \(8\)"),
    ],
)
def test_wrong_config_values_say_what_is_right(tiny_model, values, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**values)


def test_more_genes_than_there_are_make_no_panel(trainable, quick):
    with pytest.raises(ValueError, match=r"panel_sizes=\(1000, 2000\) is more genes than the model has"):
        trainable().train(**quick, panel_sizes=(1000, 2000))
