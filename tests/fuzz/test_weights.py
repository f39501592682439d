"""Broken and hostile weights: nothing runs, nothing wrong loads, and nothing larger than its file is allocated."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from cases import MODELS
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import scfoundry as sf
from scfoundry.model._pickles import read_plain_pickle
from scfoundry.model.cellplm._checkpoint import CONFIG, FIXED, to_released
from scfoundry.nn.checkpoint import CheckpointError, read_torch_file

GENES = [f"ENSG{i:011d}" for i in range(40)]


class Payload:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def model():
    return MODELS["cellplm"](GENES)


@pytest.fixture
def ours(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def release(tmp_path):
    sizes = {"n_hidden": 16, "n_layers": 1, "n_latent": 4, "n_decoder_hidden": 16, "n_bottleneck": 128}
    small = sf.model.CellPLM(genes=GENES, positions="none", library_size="none", **sizes)
    config = {theirs: getattr(small.config, own) for theirs, own in CONFIG.items()} | FIXED | {"gene_list": GENES}
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "v.config.json").write_text(json.dumps(config))
    torch.save({"model_state_dict": to_released(small.module)}, folder / "v.best.ckpt")
    return folder


def refused(folder, match=r"(Download|Save|save|copy|Is it)"):
    """Loading raises an error of ours that says what to do, without taking memory."""
    tracemalloc.start()
    try:
        with pytest.raises((CheckpointError, FileNotFoundError), match=match):
            sf.model.CellPLM.from_pretrained(folder)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def change_config(folder, **values):
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"config": saved["config"] | values}))


# ---- configurations ------------------------------------------------------------------------------------------------

SIZES = {"n_layers": 10**9, "n_hidden": 8 * 10**6, "n_batches": 10**9, "n_decoder_layers": 10**6, "n_latent": 10**12}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_the_file_does_not_have_is_refused_before_it_is_allocated(ours, name):
    change_config(ours, **{name: SIZES[name]})
    refused(ours)


STRANGE = {
    "n_layers": -1,
    "n_hidden": "32",
    "n_latent": 0,
    "n_heads": 0,
    "dropout": 5,
    "latent": ["vae"],
    "mask_beta": "no",
    "positions": {"a": 1},
    "max_cells": None,
    "prior_weight": -3.0,
    "genes": ["a"],
    "seed": 1,
    "adata": "x",
    "registry": {},
    "self": 1,
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_value_of_another_type_or_range_or_name_is_refused(ours, name):
    change_config(ours, **{name: STRANGE[name]})
    refused(ours)


JSON = {
    "a list": "[]",
    "null": "null",
    "empty": "",
    "cut": '{"model": "cellplm", "conf',
    "nested": "[" * 200_000,
    "no text": b"\xff\xfe\x00",
    "NaN": '{"model": "cellplm", "config": {"dropout": NaN}}',
    "no config": '{"model": "cellplm"}',
    "no text to say": '{"model": "cellplm", "config": {}, "licence": 5}',
}


@pytest.mark.parametrize("what", JSON)
def test_a_configuration_that_is_none_is_refused(ours, what):
    content = JSON[what]
    (ours / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(ours)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3))
def test_no_value_of_a_configuration_loads_that_is_not_what_it_should_be(ours, value):
    saved = (ours / "config.json").read_text()
    try:
        change_config(ours, n_layers=value)
        if type(value) is int and value == 2:  # as it was saved
            return
        refused(ours)
    finally:
        (ours / "config.json").write_text(saved)


# ---- tensors -------------------------------------------------------------------------------------------------------


def first(tensors):
    return next(name for name, tensor in sorted(tensors.items()) if tensor.ndim == 2)


TENSORS = {
    "NaN": lambda t: t * float("nan"),
    "infinite": lambda t: t / 0,
    "whole numbers": lambda t: (t * 100).long(),
    "truths": lambda t: t > 0,
    "complex": lambda t: t + 1j,
    "another shape": lambda t: t[:-1],
    "swapped rows": lambda t: t.flip(0),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_are_not_those_that_were_saved_are_refused(ours, what):
    tensors = load_file(ours / "model.safetensors")
    name = first(tensors)
    save_file(tensors | {name: TENSORS[what](tensors[name]).contiguous()}, ours / "model.safetensors")
    refused(ours)


def test_genes_in_another_order_are_refused(ours):
    lines = (ours / "genes.tsv").read_text().splitlines()
    (ours / "genes.tsv").write_text("\n".join([lines[0], *lines[2:], lines[1]]) + "\n")
    refused(ours, r"genes.tsv of .* changed after the model was saved")


@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(ours, place, bits):
    for name in ("model.safetensors", "genes.tsv"):
        content = (ours / name).read_bytes()
        damaged = bytearray(content)
        damaged[place % len(content)] ^= bits
        (ours / name).write_bytes(damaged)
        refused(ours)
        (ours / name).write_bytes(content)


HEADERS = {
    "of 2^60 bytes": struct.pack("<Q", 1 << 60) + b"{}",
    "that is none": struct.pack("<Q", 5) + b"{'a':",
    "overlapping": json.dumps(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [4 * i, 4 * i + 8]} for i, name in enumerate("ab")}
    ),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies_is_refused(ours, what):
    header = HEADERS[what]
    if isinstance(header, str):
        header = struct.pack("<Q", len(header)) + header.encode() + bytes(12)
    (ours / "model.safetensors").write_bytes(header)
    refused(ours)


# ---- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "genes.tsv"])
@pytest.mark.parametrize("target", ["/dev/zero", "a pipe", "another folder", "nothing"])
def test_only_files_of_the_folder_are_read(ours, tmp_path, name, target):
    (ours / name).rename(tmp_path / "elsewhere")
    if target == "a pipe":
        os.mkfifo(ours / name)
    else:
        place = {"another folder": tmp_path / "elsewhere", "nothing": tmp_path / "nothing"}.get(target, target)
        (ours / name).symlink_to(place)
    refused(ours, r"(no regular file|link out of its folder|missing|has no <version>)")


# ---- torch's files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_released_file_is_run(release, tmp_path, legacy):
    content = {"model_state_dict": {}, "x": Payload(tmp_path / "ran")}
    torch.save(content, release / "v.best.ckpt", _use_new_zipfile_serialization=not legacy)
    refused(release)
    assert not (tmp_path / "ran").exists()


RELEASED = {
    "no tensors": lambda state: {"a": "b"},
    "a list": lambda state: [1],
    "sparse": lambda state: {name: tensor.to_sparse() for name, tensor in state.items()},
    "without values": lambda state: {name: tensor.to("meta") for name, tensor in state.items()},
    "of stride 0": lambda state: {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()},
    "NaN": lambda state: {name: tensor * float("nan") for name, tensor in state.items()},
}


@pytest.mark.parametrize("what", RELEASED)
def test_released_tensors_that_are_none_are_refused(release, what):
    state = torch.load(release / "v.best.ckpt")["model_state_dict"]
    torch.save({"model_state_dict": RELEASED[what](state)}, release / "v.best.ckpt")
    refused(release)


def test_a_packed_file_is_refused_before_it_is_unpacked(release):
    path = release / "v.best.ckpt"
    source, packed = zipfile.ZipFile(io.BytesIO(path.read_bytes())), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    refused(release, "packs .*not read for safety")


def test_a_flipped_bit_of_a_released_file_is_noticed(release):
    content = bytearray((release / "v.best.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (release / "v.best.ckpt").write_bytes(content)
    refused(release)


def test_more_values_than_a_file_has_are_refused(tmp_path):
    """The pickle says how long a storage is; what is behind it in memory must not be read."""
    torch.save({"x": torch.arange(1024.0)}, tmp_path / "a.pt")
    source = zipfile.ZipFile(io.BytesIO((tmp_path / "a.pt").read_bytes()))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as longer:
        for entry in source.infolist():
            longer.writestr(entry.filename, source.read(entry).replace(b"M\x00\x04", b"M\x00\xff"))
    with pytest.raises(CheckpointError, match="could not be read as a torch file"):
        read_torch_file(tmp_path / "a.pt")


# ---- pickled dictionaries ------------------------------------------------------------------------------------------

SCALAR = (
    b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n(](X\x01\x00\x00\x00aX\x01\x00\x00\x00O\x86etR"
    b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}X\x01\x00\x00\x00a(cnumpy\ndtype\nX\x01\x00\x00\x00O\x85RK\x00tsK\x08K\x01K"
    b"\x00tbc_codecs\nencode\nX\x08\x00\x00\x00AAAAAAAAX\x06\x00\x00\x00latin1\x86R\x86R"
)
PICKLES = {
    "an object behind an address": b"\x80\x02}(X\x04\x00\x00\x00GENE" + SCALAR + b"u.",
    "an address that a message shows": b"\x80\x02cnumpy\ndtype\n]" + SCALAR + b"a\x85R.",
    "a long buffer": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",
    "100,000 lists": b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b".",
    "attributes of a function": b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_hostile_dictionary_is_refused(tmp_path, what):
    (tmp_path / "a.pkl").write_bytes(PICKLES[what])
    with pytest.raises(CheckpointError, match="Download it again"):
        read_plain_pickle(tmp_path / "a.pkl")


def test_a_far_place_of_the_memo_takes_no_memory(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    tracemalloc.start()
    assert read_plain_pickle(tmp_path / "a.pkl") == {}
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@given(st.binary(max_size=60), st.integers(0, 200))
def test_no_dictionary_does_more_than_be_read(tmp_path, content, place):
    """Bytes at random, and within a dictionary that is fine."""
    fine = pickle.dumps({"GAPDH": np.float64(2.0), "ACTB": 3}, protocol=2)
    for damaged in (content, fine[:place] + content + fine[place:]):
        (tmp_path / "a.pkl").write_bytes(damaged)
        try:
            read = read_plain_pickle(tmp_path / "a.pkl")
        except CheckpointError:
            continue
        assert all(isinstance(value, str | int | float | np.number) for value in read.values())


# ---- what scvi-tools' save wrote -----------------------------------------------------------------------------------


def test_a_pickled_model_is_refused_with_the_line_that_converts_it(model, tmp_path):
    from scvi.model.base import BaseModelClass

    BaseModelClass.save(model, str(tmp_path / "old"))
    with pytest.raises(CheckpointError, match=r"not loaded for safety.*BaseModelClass.load.__func__.*\.save\(") as told:
        sf.model.CellPLM.load(tmp_path / "old", adata=False)
    line = str(told.value).split("convert it: ")[1].replace("'converted'", repr(str(tmp_path / "new")))
    exec(line, {"sf": sf})  # noqa: S102  # the line that the message prints
    loaded = sf.model.CellPLM.load(tmp_path / "new", adata=False, accelerator="cpu")
    assert loaded.genes == model.genes


SAVED = {
    "damaged": lambda values: "{",
    "another class": lambda values: values | {"registry_": values["registry_"] | {"model_name": "Celler"}},
    "too large": lambda values: values | {"init_params_": _with(values["init_params_"], n_layers=10**9)},
    "nothing to build from": lambda values: {"registry_": {}},
    "a given argument in the configuration": lambda values: (
        values | {"init_params_": _with(values["init_params_"], adata="x")}
    ),
    "an argument of ours": lambda values: values | {"init_params_": {"kwargs": {}, "non_kwargs": {"adata": 1}}},
}


def _with(arguments, **values):
    return arguments | {"kwargs": {"config": arguments["kwargs"]["config"] | values}}


@pytest.mark.parametrize("what", SAVED)
def test_a_saved_model_that_is_none_is_refused(model, tmp_path, what):
    model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "model.json"
    changed = SAVED[what](json.loads(path.read_text()))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(CheckpointError):
        sf.model.CellPLM.load(tmp_path / "saved", adata=False, accelerator="cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "adata.h5ad"])
@pytest.mark.parametrize("noted", [True, False], ids=["with its checksum", "without a checksum"])
def test_what_changed_after_save_is_refused(name, noted, make_adata, tmp_path):
    adata = make_adata()
    sf.model.CellPLM.setup_anndata(adata)
    sizes = {"n_hidden": 16, "n_layers": 1, "n_heads": 4, "n_latent": 4, "n_decoder_hidden": 16}
    sf.model.CellPLM(adata, **sizes).save(tmp_path / "saved", save_anndata=True)
    path, values = tmp_path / "saved" / name, tmp_path / "saved" / "model.json"
    if not noted:  # nothing but damage that cannot be read is noticed
        values.write_text(json.dumps({k: v for k, v in json.loads(values.read_text()).items() if k != "sha256"}))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if noted else 0] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"changed after the model was saved" if noted else r"[Ss]ave"):
        sf.model.CellPLM.load(tmp_path / "saved", accelerator="cpu")
