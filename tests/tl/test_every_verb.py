"""What holds for every verb, with every model that it can use."""

from __future__ import annotations

import itertools
import logging
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import read_h5ad
from cases import MODELS, STORES, at_every_step, contents, leaves, log_normalised, same, state_of, with_matrix
from verbs import GENES, USERS, VERBS, Case, added

from scfoundry.data.matrix import checks
from scfoundry.data.matrix.located import LocatedMatrix
from scfoundry.model._verbs import verbs_of


@pytest.fixture(scope="session")
def data(make_adata):
    """Cells with every label that a verb learns from, and a reference with ten genes more; models lack one of each."""
    both = make_adata(80, GENES + 10)
    rng = np.random.default_rng(0)
    a, b, c = both.var_names[:3]
    guides = np.array(["ctrl", a, b, c, f"{a}+{b}"])
    both.obs["guide"] = pd.Categorical(guides[rng.integers(len(guides), size=both.n_obs)])
    active = rng.random((both.n_obs, 2)) < 0.4
    both.obsm["active"] = pd.DataFrame(active, index=both.obs_names, columns=["interferon", "TNF"])
    effect = both.X[:, :4].toarray() + rng.normal(size=(both.n_obs, 4))
    effect[rng.random(effect.shape) < 0.1] = np.nan
    both.obsm["ln_ic50"] = pd.DataFrame(effect, index=both.obs_names, columns=["A", "B", "C", "D"])
    both.obs["response"] = pd.Categorical(np.where(both.obs["cell_type"] == "B cell", "sensitive", "resistant"))
    return both[:40, :GENES].copy(), both[40:].copy()


@pytest.fixture(scope="session")
def models(data):
    genes = data[1].var_names.delete([GENES - 1, -1])
    return {name: MODELS[name](genes) for name in USERS}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Where the cells rest in files."""
    return {name: tmp_path_factory.mktemp(name) for name in ("query", "reference")}


HAS_NO = {
    ("predict_perturbation", "batch_size"),
    ("cell_attention", "precision"),
    ("gene_network", "batch_size"),
    ("gene_network", "precision"),
    ("rank_genes_attention", "precision"),
}
PAIRS = {f"{verb.label}-{name}": (verb, name) for verb in VERBS for name in verb.models.split()}
ONE_EACH = {verb.label: f"{verb.label}-{verb.models.split()[-1]}" for verb in VERBS}


@pytest.fixture(scope="session")
def cases(models, data):
    return {pair: Case(verb, models[name], name, *data) for pair, (verb, name) in PAIRS.items()}


@pytest.fixture(scope="session", params=PAIRS)
def case(request, cases):
    """Every verb with every model."""
    return cases[request.param]


@pytest.fixture(scope="session", params=ONE_EACH.values())
def one_case(request, cases):
    """Every verb with one model, for what no model can know of (`tests/model/test_every_model.py` asks them)."""
    return cases[request.param]


def moved(adata, seed):
    """The same cells and genes in another order."""
    rng = np.random.default_rng(seed)
    return adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()


def values(result):
    """Without the record of the arguments."""
    return {address: value for address, value in result.items() if "/params" not in address}


# ---- what plays no part --------------------------------------------------------------------------------------------


def test_the_order_of_cells_and_genes_plays_no_part(case):
    result = case.run(moved(case.query, 1), moved(case.labelled, 2))
    same(result, case.expected, tolerance=case.verb.tolerance, order=False)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_number_of_cells_at_a_time_plays_no_part(case, batch_size):
    if (case.verb.name, "batch_size") in HAS_NO:
        pytest.skip("has no such argument")
    result = case.run(case.query.copy(), batch_size=batch_size)
    same(values(result), values(case.expected), tolerance=case.verb.tolerance)


def test_the_type_of_the_matrix_plays_no_part(one_case, as_array):
    both = [with_matrix(adata, as_array(adata.X.toarray())) for adata in (one_case.query, one_case.labelled)]
    same(one_case.run(*both), one_case.expected, tolerance=1e-5)


def kept(case, store, folders):
    return case.run(STORES[store](case.query, folders["query"]), STORES[store](case.labelled, folders["reference"]))


@pytest.mark.parametrize("store", ["view", "backed"])
def test_where_the_cells_are_kept_plays_no_part(case, store, folders):
    same(values(kept(case, store, folders)), values(case.expected), tolerance=1e-5)


@pytest.mark.parametrize("store", ["zarr", "lazy", "mudata"])
def test_where_else_the_cells_are_kept_plays_no_part(one_case, store, folders):
    same(values(kept(one_case, store, folders)), values(one_case.expected), tolerance=1e-5)


def test_a_layer_is_read_as_the_matrix_would_be(case):
    both = case.query.copy(), case.labelled.copy()
    for adata in both:
        adata.layers["counts"], adata.X = adata.X, adata.X * 0
    layers = {"layer": "counts"} | ({"reference_layer": "counts"} if case.verb.reference else {})
    same(values(case.run(*both, **layers)), values(case.expected))


def process():
    """What a process shares with everything else that runs in it."""
    loggers = {name: logging.getLogger(name) for name in ("", "scfoundry", "scvi", "lightning.pytorch")}
    return {
        "random numbers": (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()),  # noqa: NPY002
        "threads": torch.get_num_threads(),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()),
        "numpy": np.geterr(),
        "warnings": list(warnings.filters),
        "logs": {name: (logger.level, list(logger.handlers)) for name, logger in loggers.items()},
        "signals": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
        "folder": Path.cwd(),
    }


def test_two_calls_give_the_same_to_the_bit_and_leave_the_process_as_it_was(case):
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = case.expected
    before = process()
    result = case.run(case.query.copy())
    after = process()
    assert {name: value for name, value in after.items() if value != before[name]} == {}
    same(result, expected)


# ---- what is written -----------------------------------------------------------------------------------------------


def test_only_the_documented_slots_are_written_and_files_keep_them(case, tmp_path):
    adata, reference = case.query.copy(), case.labelled.copy()
    returned = case.call(adata, reference)
    after = contents(adata)
    assert (returned is None) == bool(case.verb.slots)
    name = case.model.provenance["model"]
    documented = tuple(slot.format(model=name) for slot in case.verb.slots)
    new = added(after, contents(case.query))
    tables = [value for name, value in new.items() if name.startswith(("obsm", "layers", "obsp", "obs/"))]
    numbers = [t for table in tables for t in np.atleast_1d(table.dtypes) if t.kind in "fiu"]
    assert set(numbers) <= {np.dtype(np.float32)}
    assert {next(slot for slot in documented if f"{address}/".startswith(f"{slot}/")) for address in new} == set(
        documented
    )
    same({address: value for address, value in after.items() if address not in new}, contents(case.query))
    same(contents(reference), contents(case.labelled))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = contents(read_h5ad(tmp_path / "cells.h5ad"))
    same({address: read[address] for address in new}, new)


def test_the_record_names_arguments_weights_and_how_genes_were_matched(case):
    result, where = case.expected, "attrs"
    if case.verb.slots:
        where = case.verb.slots[-1].format(model=case.model.provenance["model"])
        assert result[f"{where}/provenance/values"] == "raw counts"
        assert result[f"{where}/provenance/genes/n_kept"] == GENES - 1
    assert {name: result[f"{where}/params/{name}"] for name in case.recorded} == case.recorded
    found = {name: value for name, value in result.items() if name.startswith(f"{where}/provenance")}
    expected = leaves(case.model.provenance, f"{where}/provenance")
    assert {name: found[name] for name in expected} == expected


def test_the_record_and_the_log_say_what_the_values_are(case, caplog):
    scfoundry = logging.getLogger("scfoundry")
    scfoundry.addHandler(caplog.handler)
    result = case.run(case.query.copy())
    scfoundry.removeHandler(caplog.handler)
    where = case.verb.slots[-1].format(model=case.model.provenance["model"]) if case.verb.slots else "attrs"
    assert result[f"{where}/units"] == case.verb.units
    assert result[f"{where}/verb"] == f"sf.tl.{case.verb.name}"
    if case.verb.slots:
        last = caplog.messages[-1]
        assert last.startswith(f"sf.tl.{case.verb.name} wrote ")
        assert last.endswith(f": {case.verb.units}.")
        assert {name.split("['")[0] for name in last.split(": ")[0].split(" wrote ")[1].split(", ")} == {
            slot.split("/")[0] for slot in case.verb.slots
        }


def test_a_copy_gets_what_the_data_would_have_got(case):
    if not case.verb.slots:
        pytest.skip("changes nothing in place")
    adata = case.query.copy()
    returned = case.call(adata, copy=True)
    same(added(contents(returned), contents(adata)), case.expected)
    same(contents(adata), contents(case.query))


def test_a_copy_of_a_file_is_in_memory_and_the_file_stays_as_it_is(case, folders):
    if not case.verb.slots:
        pytest.skip("changes nothing in place")
    backed = STORES["backed"](case.query, folders["query"])
    returned = case.call(backed, copy=True)
    assert not returned.isbacked
    same(values(added(contents(returned), contents(case.query))), values(case.expected), tolerance=1e-5)
    same(contents(backed), contents(case.query))


def test_a_key_of_ones_own_takes_the_place_of_the_usual_one_everywhere(case):
    if not case.verb.slots:
        pytest.skip("changes nothing in place")
    result = case.run(case.query.copy(), key_added="mine")
    assert all(address.split("/")[1].startswith("mine") for address in result)
    assert len(result) == len(case.expected)


def test_the_model_stays_as_it_is(case):
    before = state_of(case.model)
    case.call(case.query.copy())
    same(state_of(case.model), before)


# ---- all or nothing ------------------------------------------------------------------------------------------------


def test_a_failure_at_the_last_moment_leaves_the_data_as_they_were(case, monkeypatch):
    provenance = type(case.model).provenance
    looks, last = [], None

    def look(self):
        looks.append(self)
        if len(looks) == last:
            raise OSError("no space left")  # noqa: EM101
        return provenance.fget(self)

    monkeypatch.setattr(type(case.model), "provenance", property(look))
    case.call(case.query.copy())
    last = len(looks)
    looks.clear()
    adata = case.query.copy()
    with pytest.raises(OSError, match="no space left"):
        case.call(adata)
    same(contents(adata), contents(case.query))


def test_weights_that_are_not_numbers_are_refused_in_words_of_ours(case):
    if not hasattr(case.model, "module"):
        pytest.skip("has no weights")
    before = [parameter.detach().clone() for parameter in case.model.module.parameters()]
    adata = case.query.copy()
    try:
        for parameter in case.model.module.parameters():
            parameter.data.fill_(np.nan)
        with pytest.raises(ValueError, match="NaN or infinite"):
            case.call(adata)
    finally:
        for parameter, value in zip(case.model.module.parameters(), before, strict=True):
            parameter.data.copy_(value)
    same(contents(adata), contents(case.query))


@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["at once", "midway", "at the end"])
def test_an_interruption_reaches_the_caller_and_leaves_data_and_model_as_they_were(case, share):
    left = itertools.count(round(share * (case.n_steps - 1)), -1)

    def step():
        if next(left) == 0:
            raise KeyboardInterrupt

    adata, before = case.query.copy(), state_of(case.model)
    with at_every_step(case.model, step), pytest.raises(KeyboardInterrupt):
        case.call(adata)
    same(contents(adata), contents(case.query))
    same(state_of(case.model), before)


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_an_interruption_while_cells_are_read_leaves_the_data_as_they_were(one_case, place, monkeypatch):
    read, reads, stop = LocatedMatrix.blocks, [], None

    def blocks(self, *size):
        reads.append(self)
        if len(reads) == stop:
            raise KeyboardInterrupt
        return read(self, *size)

    monkeypatch.setattr(LocatedMatrix, "blocks", blocks)
    one_case.call(one_case.query.copy())
    stop = range(1, len(reads) + 1)[place]
    reads.clear()
    adata = one_case.query.copy()
    with pytest.raises(KeyboardInterrupt):
        one_case.call(adata)
    same(contents(adata), contents(one_case.query))


# ---- what is refused -----------------------------------------------------------------------------------------------


def scaled(adata):
    return with_matrix(adata, adata.X.toarray() - 1.5)


def negative(adata):
    adata.X.data[3] = -2
    return adata


def nan(adata):
    adata.X.data[3] = np.nan
    return adata


def infinite(adata):
    adata.X.data[3] = np.inf
    return adata


def probe_names(adata):
    adata.var_names = [f"probe_{i}_at" for i in range(adata.n_vars)]
    return adata


BAD = {
    "scaled": (scaled, {}, r"negative values\)\. .*Start from the count matrix, for example: adata = sc\.read"),
    "negative": (negative, {}, r"1 negative values\)\. .*Start from the count matrix, for example: adata = sc\.read"),
    "nan": (nan, {}, r"1 NaN.*If they stand for zeros: adata\.X\.data\[~np\.isfinite\(adata\.X\.data\)\] = 0"),
    "infinite": (infinite, {}, r"1 infinite values.*If they stand for zeros: adata\.X\.data\["),
    "strange genes": (probe_names, {}, r"Only 0 of 50 genes .*probe_0_at.*ENSG.*translate them"),
    "layer": (None, {"layer": "counts"}, r"no 'counts'; layers of this AnnData: none\. Pass one of them, or None"),
    "device": (None, {"device": "cuda"}, r"device='cuda' was asked for.*Use device=\"cpu\" or device=\"auto\""),
    "unknown device": (None, {"device": "gpu"}, r"gpu"),
    "batch_size": (None, {"batch_size": 0}, r"batch_size must be at least 1.*batch_size=None"),
    "precision": (None, {"precision": "half"}, r"precision must be one of 'auto', .*'fastest'; got 'half'"),
    "weights": (None, {"model": "scgpt"}, r"No weights 'scgpt'.*the registry has .*cellplm-mini"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_with_the_way_out_before_anything_is_computed(case, bad, monkeypatch):
    if (case.verb.name, bad) in HAS_NO:
        pytest.skip("has no such argument")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    damage, arguments, message = BAD[bad]
    adata = case.query.copy() if damage is None else damage(case.query.copy())
    before = contents(adata)
    error = FileNotFoundError if bad == "weights" else ValueError
    with at_every_step(case.model, lambda: pytest.fail("something was computed")), pytest.raises(error, match=message):
        case.call(adata, **arguments)
    same(contents(adata), before)


def test_a_bad_reference_is_refused_by_its_name(case):
    if not case.verb.reference:
        pytest.skip("has no reference")
    with pytest.raises(ValueError, match=r"\(reference\) needs raw counts.*negative values"):
        case.call(case.query.copy(), scaled(case.labelled))


def test_a_modality_that_is_not_there_is_refused(case, folders):
    mdata = STORES["mudata"](case.query, folders["query"])
    with pytest.raises(ValueError, match=r"no modality 'atac'; it has 'rna'. Pass modality="):
        case.call(mdata, modality="atac")


def test_a_view_of_a_file_is_refused_as_nothing_can_be_added_to_it(case, folders):
    if not case.verb.slots:
        pytest.skip("only reads")
    backed = STORES["backed"](case.query, folders["query"])
    with pytest.raises(ValueError, match=rf"sf.tl.{case.verb.name}: adata is a view of .*adata = adata.to_memory\(\)"):
        case.call(backed[:20])


def test_log_normalised_values_mean_the_same_as_counts_where_they_suffice(case):
    adata = log_normalised(case.query)
    if case.verb.log1p == "refused":
        with pytest.raises(ValueError, match=rf"sf.tl.{case.verb.name} needs raw counts, but adata.X holds log1p"):
            case.call(adata)
        return
    result = case.run(adata)
    if case.verb.log1p == "same":
        numbers = {name for name in result if "/provenance" not in name}
        same({name: result[name] for name in numbers}, {name: case.expected[name] for name in numbers}, tolerance=1e-4)


REFUSED = {
    f"{verb.label}-{name}": (verb, name)
    for verb in VERBS
    for name in USERS
    if name not in f"{verb.models} {verb.takes}".split()
}


@pytest.mark.parametrize(("verb", "name"), REFUSED.values(), ids=list(REFUSED))
def test_a_model_that_cannot_is_refused_by_naming_weights_that_can(models, data, verb, name):
    case = Case(verb, models[name], name, *data)
    adata = case.query.copy()
    with pytest.raises(ValueError, match=rf"sf.tl.{verb.name} cannot use {type(case.model).__name__}.* model=\"\w+\""):
        case.call(adata)
    same(contents(adata), contents(case.query))


def test_a_model_says_which_verbs_it_serves(models):
    """What the verbs accept or refuse, see above."""
    tested = {verb.name for verb in VERBS}
    accepted = {name: {verb.name for verb in VERBS if name in f"{verb.models} {verb.takes}".split()} for name in USERS}
    assert {name: set(verbs_of(models[name])) & tested for name in USERS} == accepted


def test_every_data_set_is_inspected_once(case, monkeypatch):
    inspected, judge = [], checks.require_usable
    monkeypatch.setattr(checks, "require_usable", lambda *args, **how: (inspected.append(args), judge(*args, **how))[1])
    case.call(case.query.copy())
    assert len(inspected) == 1 + case.verb.reference
