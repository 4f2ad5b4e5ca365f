"""Weight files: read back what safetensors and torch wrote, and say what is wrong with damaged ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gamut.checkpoint.tensors import TensorFiles, write_tensors
from gamut.errors import NotFoundError, UnsafeFileError, WeightsError

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


def two_shards(directory: Path, **changes: Any) -> dict[str, str]:
    """A model of two shards, a in the first and b, c in the second, whose index has these changes; returns the weight map."""
    save_file({"a": numbers(2, 3)}, directory / SHARDS[0])
    save_file({"b": numbers(4), "c": numbers(5)}, directory / SHARDS[1])
    weight_map = {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]} | changes
    (directory / INDEX).write_text(json.dumps({"weight_map": {name: file for name, file in weight_map.items() if file}}))
    return weight_map


def message_of(kind: type[Exception], directory: Path, **options: bool) -> str:
    with pytest.raises(kind) as error:
        TensorFiles.open(directory, **options)
    return str(error.value)


# reading


def test_a_single_file_is_read_as_safetensors_wrote_it(tmp_path: Path) -> None:
    tensors = {"b": numbers(2, 3), "a": numbers(4, dtype=torch.bfloat16), "scalar": torch.tensor(7), "empty": torch.empty(0, 5)}
    save_file(tensors, tmp_path / "model.safetensors")
    with TensorFiles.open(tmp_path) as files:
        assert files.names() == ["a", "b", "empty", "scalar"]
        assert "a" in files
        assert "z" not in files
        for name, tensor in tensors.items():
            assert files.shape(name) == tuple(tensor.shape)
            assert files.dtype(name) == tensor.dtype
            assert files.file(name) == tmp_path / "model.safetensors"
            assert torch.equal(files.get(name), tensor)


def test_a_tensor_is_mapped_and_not_copied(tmp_path: Path) -> None:
    save_file({"a": numbers(1000)}, tmp_path / "model.safetensors")
    with TensorFiles.open(tmp_path) as files:
        first, second = files.get("a"), files.get("a")
    assert first.data_ptr() == second.data_ptr()
    assert torch.equal(first, numbers(1000))  # and it outlives the closing


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    two_shards(tmp_path)
    with TensorFiles.open(tmp_path) as files:
        assert files.names() == ["a", "b", "c"]
        assert files.file("c") == tmp_path / SHARDS[1]
        assert torch.equal(files.get("a"), numbers(2, 3))
        assert torch.equal(files.get("c"), numbers(5))


def test_shards_may_be_links_as_in_the_hubs_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    two_shards(blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    with TensorFiles.open(snapshot) as files:
        assert torch.equal(files.get("b"), numbers(4))


def test_an_unknown_tensor_and_a_closed_file_are_errors(tmp_path: Path) -> None:
    save_file({"a": numbers(2)}, tmp_path / "model.safetensors")
    files = TensorFiles.open(tmp_path)
    with pytest.raises(WeightsError, match="expected a tensor 'b', got 1 others"):
        files.shape("b")
    files.close()
    with pytest.raises(WeightsError, match="the files are closed"):
        files.get("a")


# damage


def truncated(good: bytes) -> bytes:
    return good[:-10]


def cut_in_header(good: bytes) -> bytes:
    return good[:20]


def empty(_: bytes) -> bytes:
    return b""


def web_page(_: bytes) -> bytes:
    return b"<!DOCTYPE html><html>Sign in</html>"


def pointer(_: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def no_json(_: bytes) -> bytes:
    return (8).to_bytes(8, "little") + b"notjson!"


def longer(good: bytes) -> bytes:
    return good + b"xx"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "it is truncated, tensor 'b' and what follows is cut off; copy or download it again"),
        (cut_in_header, "got a file of 20 bytes in all; it is truncated: copy or download it again"),
        (empty, "expected a safetensors file, got 0 bytes"),
        (web_page, "expected a safetensors file, got 35 bytes"),
        (pointer, "got a Git LFS pointer of 63 bytes; run `git lfs pull` in"),
        (no_json, "expected a safetensors header, got 8 bytes of something else"),
        (longer, "one whose header is wrong"),
    ],
)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_file_is_named_with_the_damage_and_the_cure(
    damage: Callable[[bytes], bytes], says: str, sharded: bool, tmp_path: Path
) -> None:
    path = tmp_path / (SHARDS[0] if sharded else "model.safetensors")
    if sharded:
        two_shards(tmp_path)
    save_file({"a": numbers(3), "b": numbers(4)}, path)
    path.write_bytes(damage(path.read_bytes()))
    message = message_of(WeightsError, tmp_path)
    assert message.startswith(f"{path}: expected")
    assert says in message


def test_truncation_is_told_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": numbers(100)}, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert f"expected {size} bytes, got {size - 1}" in message_of(WeightsError, tmp_path)


def test_a_directory_in_place_of_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert "model.safetensors: expected a readable file" in message_of(WeightsError, tmp_path)


def test_a_dtype_that_torch_lacks_is_an_error(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    assert "tensor 'a': expected a dtype out of F64, F32" in message_of(WeightsError, tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    two_shards(tmp_path)
    (tmp_path / SHARDS[1]).unlink()
    message = message_of(WeightsError, tmp_path)
    assert message.startswith(f"{tmp_path / SHARDS[1]}: no such file")
    assert "2 tensors, 'b' among them; copy or download the missing shard" in message


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    two_shards(tmp_path, d=SHARDS[0])
    message = message_of(WeightsError, tmp_path)
    assert message.startswith(f"{tmp_path / SHARDS[0]}: expected the tensor 'd'")


def test_a_tensor_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    two_shards(tmp_path, c=None)
    message = message_of(WeightsError, tmp_path)
    assert message.startswith(f"{tmp_path / SHARDS[1]}: ")
    assert "got 'c' besides" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"weight_map": {"a": \n}}', f"{INDEX}:2: expected JSON"),
        ("{}", 'expected "weight_map" to be an object of tensor name -> file name, got nothing'),
        ('{"weight_map": {}}', "got nothing"),
        ('{"weight_map": ["a"]}', "got ['a']"),
        ('{"weight_map": {"a": 1}}', "got {'a': 1}"),
    ],
)
def test_a_malformed_index_is_a_weights_error(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    message = message_of(WeightsError, tmp_path)
    assert INDEX in message
    assert says in message


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "..\\x", "C:x", "a\0b"])
def test_an_index_that_points_elsewhere_is_refused_unread(file: str, tmp_path: Path) -> None:
    save_file({"a": numbers(2)}, tmp_path / "secret.safetensors")
    model = tmp_path / "model"
    model.mkdir()
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    message = message_of(WeightsError, model)
    assert f"for tensor 'a', got {file!r}; refused" in message


# other files


def test_no_weights_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    message = message_of(NotFoundError, tmp_path)
    assert f"{tmp_path}: expected weights in model.safetensors or {INDEX}, got none of them" in message
    (tmp_path / "tf_model.h5").touch()
    assert "got tf_model.h5" in message_of(NotFoundError, tmp_path)
    assert "got tf_model.h5" in message_of(NotFoundError, tmp_path, allow_pickle=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_refused_unless_allowed(legacy: bool, tmp_path: Path) -> None:
    tensors = {"a": numbers(2, 3), "b": numbers(4)}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    message = message_of(UnsafeFileError, tmp_path)
    assert message.startswith(f"{tmp_path / 'pytorch_model.bin'}: ")
    assert "pass allow_pickle=True" in message
    with TensorFiles.open(tmp_path, allow_pickle=True) as files:
        assert files.names() == ["a", "b"]
        assert files.shape("a") == (2, 3)
        assert files.file("b") == tmp_path / "pytorch_model.bin"
        assert torch.equal(files.get("a"), tensors["a"])


def test_sharded_pickles_are_read_when_allowed(tmp_path: Path) -> None:
    torch.save({"a": numbers(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": numbers(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "pytorch_model.bin.index.json" in message_of(UnsafeFileError, tmp_path)
    with TensorFiles.open(tmp_path, allow_pickle=True) as files:
        assert torch.equal(files.get("b"), numbers(3))


def test_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    save_file({"a": numbers(2)}, tmp_path / "model.safetensors")
    torch.save({"b": numbers(2)}, tmp_path / "pytorch_model.bin")
    for allow_pickle in (False, True):
        with TensorFiles.open(tmp_path, allow_pickle=allow_pickle) as files:
            assert files.names() == ["a"]


class Attack:
    """Unpickled, this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_not_run_even_when_pickles_are_allowed(tmp_path: Path) -> None:
    torch.save({"a": Attack(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    assert "refuses to read" in message_of(UnsafeFileError, tmp_path, allow_pickle=True)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(tmp_path / "ran"), protocol=2))
    message_of(UnsafeFileError, tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "expected a dictionary of tensors, got list"),
        ({"a": torch.ones(1), "epoch": 3}, "got 'epoch': int; save the state_dict() alone"),
        ({3: torch.ones(1)}, "got 3: Tensor"),
    ],
)
def test_a_pickle_of_something_else_is_a_weights_error(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert says in message_of(WeightsError, tmp_path, allow_pickle=True)


def test_a_damaged_pickle_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": numbers(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises((WeightsError, UnsafeFileError), match=r"pytorch_model\.bin: expected"):
        TensorFiles.open(tmp_path, allow_pickle=True)


# writing


DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 complex64 "
DTYPES += "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"


@pytest.mark.parametrize("dtype", [getattr(torch, name) for name in DTYPES.split()], ids=str)
def test_safetensors_reads_every_dtype_that_is_written(dtype: torch.dtype, tmp_path: Path) -> None:
    bits = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1] * 6, dtype=torch.uint8)
    tensor = bits.view(dtype) if dtype is not torch.bool else bits.to(torch.bool)
    write_tensors(tmp_path, {"a": torch.ones(3, dtype=torch.uint8), "t": tensor})
    read = load_file(tmp_path / "model.safetensors")
    assert read["t"].dtype == dtype
    assert torch.equal(read["t"].view(torch.uint8), tensor.view(torch.uint8))
    with TensorFiles.open(tmp_path) as files:
        assert files.dtype("t") == dtype


def test_views_shared_storage_and_odd_layouts_are_written_as_they_look(tmp_path: Path) -> None:
    base = numbers(6, 4)
    tensors = {
        "transposed": base.t(),
        "row": base[2],
        "strided": base[::2, 1::2],
        "expanded": base[:1].expand(3, 4),
        "same": base,
        "tied": base,
        "parameter": torch.nn.Parameter(base.clone()),
        "scalar": base[1, 1],
        "empty": base[:0],
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "negative": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        "é.漢": base[0],
    }
    write_tensors(tmp_path, tensors)
    read = load_file(tmp_path / "model.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


def test_the_file_is_that_of_safetensors_own_writer(tmp_path: Path) -> None:
    tensors = {
        "b": numbers(3, dtype=torch.bfloat16),
        "a": numbers(2, 2),
        "long": numbers(2, dtype=torch.int64),
        "x": numbers(5),
    }
    write_tensors(tmp_path, tensors)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("model.safetensors", "theirs.safetensors"))
    assert ours == theirs


def test_metadata_is_written(tmp_path: Path) -> None:
    write_tensors(tmp_path, {"a": numbers(2)}, metadata={"format": "pt", "note": "x"})
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "x"}


@pytest.mark.parametrize("sizes", [[3, 3, 3], [9, 1, 1], [1, 9, 1, 9], [4, 4, 1], [2, 9, 2], [4], [9], [9, 9], [0, 4, 0]])
def test_shards_are_cut_as_huggingface_hub_cuts_them(sizes: list[int], tmp_path: Path) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {f"t{number}": numbers(size) for number, size in enumerate(sizes)}
    expected = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=16 + 4
    )  # five numbers of four bytes
    write_tensors(tmp_path, tensors, shard_bytes=20)
    written = {path.name: sorted(load_file(path)) for path in tmp_path.glob("*.safetensors")}
    assert written == {file: sorted(names) for file, names in expected.filename_to_tensors.items()}
    assert (tmp_path / INDEX).exists() == expected.is_sharded
    if expected.is_sharded:
        index = json.loads((tmp_path / INDEX).read_text())
        assert index == {"metadata": expected.metadata, "weight_map": expected.tensor_to_filename}
    with TensorFiles.open(tmp_path) as files:
        assert files.names() == sorted(tensors)
        assert all(torch.equal(files.get(name), tensor) for name, tensor in tensors.items())


def test_no_tensors_make_one_empty_file(tmp_path: Path) -> None:
    write_tensors(tmp_path, {})
    assert load_file(tmp_path / "model.safetensors") == {}


def test_pairs_are_written_like_a_mapping_and_a_name_twice_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path, ((name, numbers(2)) for name in "ab"))
    assert sorted(load_file(tmp_path / "model.safetensors")) == ["a", "b"]
    with pytest.raises(WeightsError, match="expected each tensor once, got 'a' twice"):
        write_tensors(tmp_path, [("a", numbers(2)), ("a", numbers(2))])


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.empty(2, device="meta"), "on meta"),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        (torch.ones(2, dtype=torch.complex128), "torch.complex128"),
    ],
)
def test_a_tensor_that_cannot_be_stored_is_refused_before_anything_is_written(
    tensor: Tensor, says: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="tensor 't': expected dense data") as error:
        write_tensors(tmp_path, {"a": numbers(2), "t": tensor})
    assert says in str(error.value)
    assert not list(tmp_path.iterdir())
