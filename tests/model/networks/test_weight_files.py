"""Weights from strangers: arrays in every form that training writes, and nothing that runs."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maskmill.model.errors import CheckpointError
from maskmill.model.networks.weight_files import read_safetensors, read_state_dict

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


class Gadget:
    """Pickles to a call of ``function(*arguments)``, which an unpickler without care would make."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path: Path, payload: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(payload, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        WEIGHT,
        np.asfortranarray(WEIGHT),
        WEIGHT.transpose(1, 0, 2),
        WEIGHT.astype(">f8"),
        WEIGHT.astype(np.float16),
        WEIGHT.astype(np.int64)[:, 1:],
        WEIGHT > 3,
        np.array(4.6, dtype=np.float32),
    ],
    ids=["plain", "fortran", "transposed", "big-endian", "half", "slice", "bool", "scalar"],
)
def test_numpy_pickles_come_back(tmp_path, array, protocol):
    state = read_state_dict(write(tmp_path / "weights.pkl", {"model": {"w": array}}, protocol))
    np.testing.assert_array_equal(state["w"].numpy(), array)
    assert state["w"].numpy().dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_torch_tensors_in_a_plain_pickle_come_back(tmp_path, protocol):
    tensors = collections.OrderedDict(w=torch.from_numpy(WEIGHT).permute(2, 0, 1), p=torch.nn.Parameter(torch.ones(2)))
    state = read_state_dict(write(tmp_path / "weights.pkl", {"model": tensors}, protocol))
    assert torch.equal(state["w"], tensors["w"])
    assert torch.equal(state["p"], torch.ones(2))
    assert not state["p"].requires_grad


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_with_tensors_arrays_and_a_trainers_entries(tmp_path, legacy):
    payload = {
        "model": {"w": torch.from_numpy(WEIGHT), "n": WEIGHT, "h": WEIGHT.astype(np.float16)},
        "trainer": {"best": np.float64(0.5), "history": [np.int64(3)], "schedule": collections.Counter({7: 1})},
        "iteration": 59_999,
    }
    path = tmp_path / "weights.pth"
    torch.save(payload, path, _use_new_zipfile_serialization=not legacy)
    state = read_state_dict(path)
    assert sorted(state) == ["h", "n", "w"]
    for key in ("w", "n", "h"):
        np.testing.assert_array_equal(state[key].numpy(), WEIGHT)


def test_entries_beside_the_model_are_ignored_and_a_bare_state_dict_is_read(tmp_path):
    entries = {"__author__": "someone", "matching_heuristics": True, "iteration": np.int64(7), "best": np.float32(0.5)}
    state = read_state_dict(write(tmp_path / "a.pkl", {"model": {"w": WEIGHT}, **entries}))
    assert list(state) == ["w"]
    assert list(read_state_dict(write(tmp_path / "b.pkl", {"w": WEIGHT}))) == ["w"]


def test_python_2_pickles_come_back(tmp_path):
    # What Python 2 wrote for {"w": np.float32([1, 2])}: protocol 2, byte strings, numpy's old module names.
    content = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(content)
    assert read_state_dict(path)["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("where", ["model", "beside", "inside a tensor"])
@pytest.mark.parametrize("form", [0, 2, 4, 5, "torch", "torch legacy"])
def test_a_planted_command_does_not_run(tmp_path, where, form):
    proof = tmp_path / "ran"
    gadget = Gadget(os.system, f"touch {proof}")
    if where == "inside a tensor":
        nested = io.BytesIO()
        torch.save(gadget, nested, _use_new_zipfile_serialization=False)
        gadget = Gadget(torch.storage._load_from_bytes, nested.getvalue())
    payload = {"model": {"w": WEIGHT, "x": gadget}} if where == "model" else {"model": {"w": WEIGHT}, "trainer": gadget}
    path = tmp_path / "weights.pkl"
    if isinstance(form, int):
        write(path, payload, form)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(CheckpointError, match=r"(system|_load_from_bytes), which is no part of an array"):
        read_state_dict(path)
    assert not proof.exists()
    # The plant is live: a careless reader would have run it.
    if isinstance(form, int):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize(
    ("gadget", "name"),
    [
        (Gadget(eval, "1"), "builtins.eval"),
        (Gadget(getattr, "a", "upper"), "builtins.getattr"),
        (Gadget(np.load, "x.npy", None, True), "numpy.load"),
        (Gadget(torch.load, "x.pth"), "torch.serialization.load"),
        (np.array([None], dtype=object), "'O8'"),
        (np.array(["text"]), "'U4'"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
    ],
    ids=["eval", "getattr", "numpy.load", "torch.load", "object array", "text array", "masked array"],
)
def test_what_is_no_plain_array_is_refused_by_name(tmp_path, gadget, name):
    with pytest.raises(CheckpointError, match=name):
        read_state_dict(write(tmp_path / "weights.pkl", {"model": {"w": gadget}}))


def test_a_constructor_cannot_be_altered(tmp_path):
    # BUILD with a pair of states sets attributes of the object before it, here of the function that rebuilds tensors.
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}U\x0c__defaults__)st" + b"b."
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(CheckpointError, match="alter a constructor"):
        read_state_dict(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({"model": {}}, "holds no state dict"),
        ({"model": "weights"}, "holds no state dict"),
        ({"model": {"w": [1.0]}}, "entry 'w' is no named array but a list"),
        ({"model": {3: WEIGHT}}, "entry 3 is no named array"),
    ],
)
def test_other_contents_are_named(tmp_path, payload, message):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(write(tmp_path / "weights.pkl", payload))


def test_declared_sizes_must_match_the_bytes(tmp_path):
    content = pickle.dumps({"w": WEIGHT}, protocol=4).replace(b"K\x02K\x03K\x04\x87", b"K\x02K\x03K\x09\x87")
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(path)


def test_a_zip_bomb_is_not_unfolded(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="compressed members"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(1).expand(10**9), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64)],
    ids=["expanded", "sparse", "complex"],
)
def test_tensors_that_hold_other_than_their_values_are_refused(tmp_path, tensor):
    path = tmp_path / "weights.pth"
    torch.save({"w": tensor}, path)
    with pytest.raises(CheckpointError, match="entry 'w' is no plain array"):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # PyTorch's, about some of the damaged files
@pytest.mark.parametrize("kind", ["torch", "torch legacy", "pickle", "safetensors"])
def test_damage_ends_in_one_clear_error(tmp_path, kind):
    path = tmp_path / "weights"
    read = read_state_dict
    if kind == "pickle":
        write(path, {"model": {"w": WEIGHT, "v": WEIGHT}})
    elif kind == "safetensors":
        save_file({"w": torch.from_numpy(WEIGHT)}, path)
        read = read_safetensors
    else:
        torch.save({"model": {"w": torch.from_numpy(WEIGHT)}}, path, _use_new_zipfile_serialization=kind == "torch")
    intact = path.read_bytes()
    assert torch.equal(read(path)["w"], torch.from_numpy(WEIGHT))
    for length in [0, 1, 3, *range(8, len(intact), max(1, len(intact) // 40))]:
        path.write_bytes(intact[:length])
        with pytest.raises(CheckpointError, match="weights"):
            read(path)
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(intact)
        for _ in range(4):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read(path)  # damage inside the numbers cannot be told from other numbers
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "none.safetensors")
