"""Pickled dictionaries from a file share: plain values are read, everything else is refused before it runs."""

import codecs
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from scfoundry.model._pickles import read_plain_pickle
from scfoundry.nn.checkpoint import CheckpointError

PARITY = Path(__file__).parents[1] / "data" / "parity" / "langcell"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(tmp_path, protocol):
    content = {"GAPDH": np.float64(20.0455), "ACTB": 41.877, "<pad>": 0, "token": np.int16(7), "symbol": "RAVER2"}
    assert read_plain_pickle(write(tmp_path / "plain.pkl", content, protocol)) == content


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_numbers_of_either_generation_of_numpy_are_read(tmp_path, core):
    """numpy 2 renamed the module that makes a scalar."""
    own = np.float64(0).__reduce__()[0].__module__
    path = write(tmp_path / "plain.pkl", {"GAPDH": np.float64(20.0455)}, protocol=2)
    path.write_bytes(path.read_bytes().replace(own.encode(), f"{core}.multiarray".encode()))
    assert read_plain_pickle(path) == {"GAPDH": 20.0455}


@pytest.mark.parametrize("name", ["gene_median_dictionary.pkl", "token_dictionary.pkl"])
def test_released_dictionaries_are_read(name):
    path = PARITY / "geneformer" / name
    assert read_plain_pickle(path) == pickle.loads(path.read_bytes())  # noqa: S301


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path, protocol):
    witness = tmp_path / "ran"
    path = write(tmp_path / "bad.pkl", {"gene": Calls(os.system, f"touch {witness}")}, protocol)
    with pytest.raises(CheckpointError, match=r"asks for \w+.system.*not loaded for safety"):
        read_plain_pickle(path)
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "content",
    [
        Calls(eval, "1 + 1"),
        Calls(getattr, "GAPDH", "encode"),
        {"a": torch.ones(1)},
        {"a": np.ones(2)},
        {"a": pytest.approx},
        Calls(codecs.decode, "GAPDH", "rot13"),
        Calls(codecs.encode, "GAPDH", "rot13"),
        Calls(codecs.encode, "GAPDH", "utf-8"),
        Calls(codecs.encode, 7, "latin1"),
    ],
)
def test_other_objects_are_refused(tmp_path, content, protocol):
    with pytest.raises(CheckpointError, match=r"asks for .*not loaded for safety"):
        read_plain_pickle(write(tmp_path / "bad.pkl", content, protocol))


@pytest.mark.parametrize("content", [["GAPDH"], {"GAPDH": [1, 2]}, {1: "GAPDH"}, "GAPDH"])
def test_other_containers_are_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="but not one of strings and numbers"):
        read_plain_pickle(write(tmp_path / "bad.pkl", content))


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path / "cut.pkl", {"GAPDH": 1.0, "ACTB": 2.0})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="no pickled dictionary of plain values"):
        read_plain_pickle(path)
