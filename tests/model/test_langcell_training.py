import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cases import disturb, equal, moved, weights
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.langcell._encoders import CellEncoder
from scfoundry.model.langcell._tokenizer import learn_vocabulary
from scfoundry.model.langcell._training_data import CellTexts
from scfoundry.train.cells import CellDataModule
from scfoundry.train.labels import draw_shots

TYPES = np.array(["naive b cell", "natural killer cell", "classical monocyte", "plasma cell", "mast cell"])
TINY = {
    "n_hidden": 32, "n_layers": 2, "n_heads": 4, "n_intermediate": 64, "n_text_hidden": 32, "n_text_layers": 2,
    "n_text_heads": 4, "n_text_intermediate": 64, "n_latent": 16, "max_length": 16, "max_text_length": 16,
    "queue_size": 32,
    "text_vocabulary": learn_vocabulary([f"cell type: {name}" for name in TYPES], 200),
}  # fmt: skip
QUICK = {"max_epochs": 2, "lr": 1e-3, "batch_size": 16, "accelerator": "cpu"}


def corpus(n_obs=60, seed=0):
    """Cells of five types that their texts name."""
    rng = np.random.default_rng(seed)
    profiles = np.random.default_rng(42).lognormal(sigma=1.0, size=(len(TYPES), 60))
    types = np.arange(n_obs) % len(TYPES)
    counts = rng.poisson(2 * profiles[types] * rng.lognormal(sigma=0.3, size=(n_obs, 1)))
    obs = pd.DataFrame({"cell_type": TYPES[types]}, index=[f"cell {i}" for i in range(n_obs)])
    obs["text"] = "cell type: " + obs["cell_type"]
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(60)])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def trainable(adata=None, *, text_keys="text", seed=0, **config):
    adata = corpus() if adata is None else adata
    sf.model.LangCell.setup_anndata(adata, text_keys=text_keys)
    return sf.model.LangCell(adata, seed=seed, **(TINY | config))


def pretrain(model, **kwargs):
    model.train(**(QUICK | {"warmup_steps": 2} | kwargs))


@pytest.fixture(scope="module")
def taught():
    model = trainable(corpus(200), text_dropout=0.0, queue_size=0)
    objectives = {"masked_genes": 0, "cell_cell": 0}
    pretrain(model, lr=5e-3, max_epochs=16, batch_size=20, warmup_steps=20, validation_size=0, loss_weights=objectives)
    return model


def scores(model, adata):
    labels = [Label(name, (f"cell type: {name}",)) for name in TYPES]
    return model.score_texts(Cells.of(adata, model.genes, caller="test"), labels, Compute.resolve("cpu"))


def test_cells_find_their_texts(taught):
    adata = corpus(100, seed=1)
    by_similarity = scores(taught.copy(alpha=1.0), adata).probabilities.argmax(1)
    assert np.mean(TYPES[by_similarity] == adata.obs["cell_type"]) > 0.8


def test_matching_is_learned(taught):
    """A head that knows only the share of true pairs, a third, has a loss of 0.64."""
    matching = taught.history["matching_train"].iloc[:, 0].astype(float)
    assert matching.iloc[-1] < 0.4
    adata = corpus(100, seed=1)
    matching = scores(taught, adata).matching
    own = adata.obs["cell_type"].to_numpy()[:, None] == TYPES
    assert matching[own].mean() > matching[~own].mean() + 0.3


def test_the_first_stage_trains_cells_alone():
    model = trainable(text_keys=None)
    before = weights(model)
    pretrain(model, stage=1)
    assert moved(before, model) == {"cell", "cell_projection"}
    assert set(model.history) >= {"loss_train", "masked_genes_validation", "cell_cell_validation"}
    assert "matching_train" not in model.history


def test_without_matching_only_cls_is_followed_through_the_last_layer(monkeypatch):
    """The other positions would cost as much as <cls> a gene, and nothing reads them."""
    model = trainable(dropout=0.0, text_dropout=0.0)
    followed = []
    read = CellEncoder.forward

    def watched(self, tokens, present=None, *, n_wanted=None):
        followed.append(n_wanted)
        return read(self, tokens, present, n_wanted=n_wanted)

    monkeypatch.setattr(CellEncoder, "forward", watched)
    objectives = {"masked_genes": 0, "cell_cell": 0}
    once = {"max_epochs": 1, "batch_size": 60, "validation_size": 0, "lr": 0.0}
    pretrain(model, loss_weights=objectives | {"matching": 0}, **once)
    assert followed[0] == 1
    followed.clear()
    pretrain(model, loss_weights=objectives, **once)
    assert followed[0] is None
    contrast = model.history["cell_text_train"].iloc[:, 0].astype(float)
    np.testing.assert_allclose(contrast.iloc[0], contrast.iloc[1], rtol=1e-5)


def test_a_second_stage_lengthens_the_history_and_adds_to_it():
    model = trainable()
    pretrain(model, stage=1)
    pretrain(model, stage=2, max_epochs=1)
    assert len(model.history["cell_cell_train"]) == 3
    assert len(model.history["matching_train"]) == 1


@pytest.mark.parametrize("stage", [1, 2])
def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(stage):
    models = [trainable() for _ in range(3)]
    for model, seed in zip(models, [0, 0, 1], strict=True):
        pretrain(model, stage=stage, seed=seed)
    first, again, other = map(weights, models)
    assert equal(first, again)
    assert not equal(first, other)


def test_interrupted_training_resumes_to_the_same_weights(tmp_path):
    """Slow copies, their queue and the order of cells go on where they were."""
    through, interrupted, resumed = trainable(), trainable(), trainable()
    disturb(resumed)
    constant = {"schedule": "constant"}
    pretrain(through, max_epochs=4, **constant)
    pretrain(interrupted, max_epochs=2, checkpoint_dir=tmp_path, **constant)
    pretrain(resumed, max_epochs=4, checkpoint_dir=tmp_path, **constant)
    assert equal(weights(through), weights(resumed))


def test_of_several_columns_texts_are_drawn():
    adata = corpus()
    adata.obs["other"] = "a " + adata.obs["cell_type"] + " of blood"
    model = trainable(adata, text_keys=["text", "other"])
    texts = CellTexts(adata.obs[["text", "other"]].to_numpy(str), model.tokenizer).draw(np.arange(60), model.device)
    of_column = texts.drawn[:, None] == texts.described
    assert of_column.any(1).all()
    assert of_column.any(0).all()
    pretrain(model)
    assert np.isfinite(model.history["cell_text_train"].iloc[:, 0].astype(float)).all()


def test_cells_without_genes_of_the_vocabulary_are_left_out(logged):
    adata = corpus()
    adata.X[:3] = 0
    adata.X.eliminate_zeros()
    pretrain(trainable(adata), max_epochs=1)
    assert any("3 cells without a gene" in message for message in logged)


@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (trainable, {"stage": 3}, "stage must be one of 1, 2; got 3"),
        (lambda: trainable(text_keys=None), {"stage": 2}, r"none are registered: .*text_keys="),
        (trainable, {"stage": 1, "loss_weights": {"matching": 2}}, "no 'matching'; name objectives of stage 1"),
        (trainable, {"stage": 1, "loss_weights": {"masked_genes": 0, "cell_cell": 0}}, "nothing to learn from"),
        (
            lambda: sf.model.LangCell(genes=trainable().genes, **TINY),
            {},
            r"nothing to train on.*setup_anndata",
        ),
        (trainable, {"batch_size": 0}, "batch_size must be at least 1 cell; got 0"),
    ],
)
def test_what_cannot_be_trained_says_why(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pretrain(make(), **kwargs)


def test_batches_cover_the_cells_once_and_are_alike_in_length():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    train = np.arange(1000)[lengths > 50]
    data = CellDataModule(train, np.arange(1000)[lengths <= 50], lengths=lengths, batch_size=16)
    batches = data.epoch(np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(batches)), train)
    assert len(batches) == len(data.train_dataloader())
    assert {len(batch) for batch in batches} <= {15, 16}
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 60
    assert not np.array_equal(batches[0], data.epoch(np.random.default_rng(1))[0])


# ---- data and files ----------------------------------------------------------------------------------------------


def built_from_data(**config):
    """A model that takes medians and words from its data."""
    adata = corpus()
    sf.model.LangCell.setup_anndata(adata, text_keys="text")
    small = {name: value for name, value in TINY.items() if name != "text_vocabulary"}
    return sf.model.LangCell(adata, **(small | config))


def test_what_came_from_the_data_is_saved_with_the_model(tmp_path):
    model, other = built_from_data(), corpus(40, seed=5)
    other.obs["text"] = "a cell of " + other.obs["cell_type"]
    model.save(tmp_path / "model")
    alone = sf.model.LangCell.load(tmp_path / "model", adata=False, accelerator="cpu")
    with_others = sf.model.LangCell.load(tmp_path / "model", adata=other, accelerator="cpu")
    expected = model.get_latent_representation(other, device="cpu")
    for loaded in (alone, with_others):
        assert loaded.config == model.config
        assert loaded.genes == model.genes
        np.testing.assert_array_equal(loaded.get_latent_representation(other, device="cpu"), expected)
    pretrain(with_others, max_epochs=1)


def test_a_head_survives_a_model_that_learned_its_words(tmp_path):
    model = built_from_data()
    classify(model, corpus(), corpus().obs["cell_type"], max_epochs=1)
    model.save(tmp_path / "model")
    loaded = sf.model.LangCell.load(tmp_path / "model", adata=False, accelerator="cpu")
    assert loaded.config == loaded.module.config == model.config
    assert equal(weights(loaded), weights(model))


def test_missing_texts_are_counted_before_anything_is_registered():
    adata = corpus()
    adata.obs.loc[adata.obs_names[:3], "text"] = np.nan
    message = r"obs\['text'\] has no text for 3 of 60 cells.*adata\[adata.obs\['text'\].notna\(\)\]"
    for column in ("text", ["cell_type", "text"]):
        with pytest.raises(ValueError, match=message):
            sf.model.LangCell.setup_anndata(adata, text_keys=column)
    with pytest.raises(KeyError, match="obs has no column 'texts'; it has 'cell_type', 'text'"):
        sf.model.LangCell.setup_anndata(adata, text_keys="texts")
    sf.model.LangCell.setup_anndata(adata[adata.obs["text"].notna()].copy(), text_keys="text")


# ---- classification ------------------------------------------------------------------------------------------------


def classify(model, adata, labels, **kwargs):
    model.train_classifier(adata, labels, **(QUICK | {"max_epochs": 12, "lr": 3e-3} | kwargs))


@pytest.fixture(scope="module")
def classifier():
    model = trainable(text_keys=None)
    classify(model, corpus(150), corpus(150).obs["cell_type"])
    return model


def test_cell_types_are_learned(classifier):
    adata = corpus(100, seed=1)
    probabilities = classifier.predict_classes(adata, device="cpu")
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    called = np.array(classifier.config.classes)[probabilities.argmax(1)]
    assert np.mean(called == adata.obs["cell_type"]) > 0.8


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_the_head_and_its_classes_are_saved(classifier, tmp_path, way):
    getattr(classifier, way)(tmp_path / "model")
    if way == "save":
        loaded = sf.model.LangCell.load(tmp_path / "model", adata=False, accelerator="cpu")
    else:
        loaded = sf.model.LangCell.from_pretrained(tmp_path / "model")
    assert loaded.config.classes == tuple(sorted(TYPES))
    adata = corpus(seed=2)
    np.testing.assert_array_equal(
        loaded.predict_classes(adata, device="cpu"), classifier.predict_classes(adata, device="cpu")
    )


def test_the_head_alone_leaves_the_encoder_and_the_pooler():
    model = trainable(text_keys=None)
    before = weights(model)
    classify(model, corpus(), corpus().obs["cell_type"], train="head", max_epochs=1, n_shots=3)
    assert moved(before, model) == set()


def test_missing_labels_are_left_out_and_few_shots_are_seeded():
    labels = corpus().obs["cell_type"].to_numpy(dtype=object)
    labels[:20] = None
    models = [trainable(text_keys=None) for _ in range(2)]
    for model in models:
        classify(model, corpus(), labels, max_epochs=1, n_shots=2, seed=3)
    assert equal(*map(weights, models))


def test_shots_per_class():
    labels = np.array([0] * 10 + [1] * 2 + [-1] * 5 + [2] * 4)
    rows = draw_shots(labels, 3, seed=0)
    assert np.bincount(labels[rows]).tolist() == [3, 2, 3]
    assert np.array_equal(rows, draw_shots(labels, 3, seed=0))
    assert not np.array_equal(rows, draw_shots(labels, 3, seed=1))


def test_a_classifier_that_calls_all_cells_alike_is_reported(logged):
    classify(trainable(text_keys=None), corpus(), corpus().obs["cell_type"], lr=0.0, train="head", max_epochs=1)
    model = trainable(text_keys=None)
    labels = ["rare" if i < 2 else "common" for i in range(60)]
    classify(model, corpus(), labels, max_epochs=4, lr=1e-3)
    assert any("calls every cell 'common'" in message for message in logged)


def named(adata, columns):
    return pd.DataFrame(np.ones((adata.n_obs, len(columns)), int), index=adata.obs_names, columns=columns)


def test_labels_of_which_a_cell_has_several():
    adata = corpus(150)
    targets = pd.DataFrame(
        {"lymphoid": adata.obs["cell_type"].isin(TYPES[:2]), "b": adata.obs["cell_type"].isin(TYPES[[0, 3]])}
    )
    model = trainable(adata, text_keys=None)
    model.train_multilabel(adata, targets, **(QUICK | {"max_epochs": 12, "lr": 3e-3}))
    probabilities = model.predict_classes(adata, device="cpu")
    assert model.config.classes == ("lymphoid", "b")
    assert np.mean((probabilities > 0.5) == targets.to_numpy()) > 0.85


def test_a_table_goes_by_the_names_of_cells():
    adata = corpus()
    labels = corpus(70).obs["cell_type"]
    targets = pd.DataFrame({"lymphoid": labels.isin(TYPES[:2])})
    texts = {name: f"cell type: {name}" for name in TYPES}
    for learn, given, more in (
        ("train_classifier", labels, ()),
        ("train_multilabel", targets, ()),
        ("fine_tune_texts", labels, (texts,)),
    ):
        models = [trainable(text_keys=None) for _ in range(2)]
        for model, table in zip(models, (given[:60], given[::-1]), strict=True):
            getattr(model, learn)(adata, table, *more, max_epochs=1, lr=1e-2, batch_size=32, accelerator="cpu")
        assert equal(*map(weights, models))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, a: m.train_classifier(a, ["x"] * 60), "at least 2 classes apart; the labels have 1"),
        (lambda m, a: m.train_classifier(a, ["x", "y"]), "2 labels for 60 cells"),
        (lambda m, a: m.train_classifier(a, list("xy") * 30, n_shots=0), "n_shots must be at least 1"),
        (lambda m, a: m.train_multilabel(a, np.full((60, 2), 0.5)), r"targets must be 0 or 1 .*\(60, number of"),
        (lambda m, a: m.train_multilabel(a, np.ones((60, 0))), r"number of labels\); got shape \(60, 0\)"),
        (lambda m, a: m.train_multilabel(a, named(a, ["a", "a"])), "the column 'a' more than once"),
        (lambda m, a: m.train_classifier(a, corpus(70).obs["cell_type"][10:]), "nothing of 10 of 60 cells.*'cell 0'"),
        (lambda m, a: m.fine_tune_texts(a, pd.Series(["x"] * 60), {"x": "a x"}), "labels.set_axis.adata.obs_names"),
        (lambda m, a: m.predict_classes(a), r"no classification head yet: model.train_classifier"),
        (lambda m, a: m.fine_tune_texts(a, ["x"] * 60, {"y": "a y"}), "no text for the labels 'x'; texts: 'y'"),
    ],
)
def test_labels_that_cannot_be_learned_say_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(trainable(text_keys=None), corpus())
