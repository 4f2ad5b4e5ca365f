"""JSON with errors that name the line, and directories that are replaced at once or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gamut.checkpoint import io
from gamut.checkpoint.io import atomic_directory, read_json, recover, write_json
from gamut.errors import CheckpointError, ConfigError, NotFoundError


def tree(directory: Path) -> dict[str, str]:
    """Relative path -> content of every file below `directory`."""
    return {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def build(directory: Path, **files: str) -> Path:
    """A directory with these files; __ in a name stands for a slash and _ for a dot."""
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def save(path: Path, **files: str) -> None:
    with atomic_directory(path) as writing:
        build(writing, **files)


# read_json


def test_what_is_written_is_read_and_laid_out_as_in_hugging_face_directories(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"b": [1, 2.5], "a": "é 漢"})
    assert read_json(path) == {"a": "é 漢", "b": [1, 2.5]}
    assert path.read_bytes() == '{\n  "a": "é 漢",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'.encode()


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        (b'{\n "a": 1,\n "b": \n}', "config.json:4: ", "expected JSON"),
        (b"", "config.json:1: ", "expected JSON"),
        (b'{"a": 1}\n{"b": 2}', "config.json:2: ", "Extra data"),
        (b"\n[1]", "config.json:1: ", "expected a JSON object ({...}), got a list"),
        (b"null", "config.json:1: ", "got null"),
        (b"true", "config.json:1: ", "got a truth value"),
        (b"3", "config.json:1: ", "got a number"),
        (b'{\n"a": "\xe9"}', "config.json:2: ", "expected UTF-8, got the byte 0xe9"),
        (b"[" * 200_000, "config.json: ", "nested too deeply"),
    ],
)
def test_bad_json_names_file_and_line(content: bytes, where: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{tmp_path}{os.sep}{where}")
    assert says in str(error.value)


def test_missing_json_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"config\.json: no such file"):
        read_json(tmp_path / "config.json")


def test_a_directory_in_place_of_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json: expected a readable file"):
        read_json(tmp_path / "config.json")


# atomic_directory: what is replaced, kept and refused


def test_a_new_directory_is_made_with_its_parents_and_nothing_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b", config_json="{}", sub__x_txt="x")
    assert tree(tmp_path) == {"a/b/config.json": "{}", "a/b/sub/x.txt": "x"}
    assert names(tmp_path / "a") == ["b"]


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="old")
    with atomic_directory(path) as writing:
        build(writing, config_json="new")
        assert writing.parent == path.parent  # the same file system
        assert tree(path) == {"config.json": "old"}
    assert tree(path) == {"config.json": "new"}


def test_the_users_files_are_kept_and_stale_weights_are_not(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="old", README_md="mine", runs__1__log_txt="log", runs__2__log_txt="old log")
    stale = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
    ]
    for name in [*stale, "adapter_model.safetensors", "tokenizer.json"]:
        (path / name).write_text("old")
    (path / "link").symlink_to("README.md")
    with atomic_directory(path) as writing:
        build(writing, config_json="new", model_safetensors="new", runs__2__log_txt="new log")
    assert tree(path) == {
        "README.md": "mine",
        "adapter_model.safetensors": "old",
        "config.json": "new",
        "link": "mine",
        "model.safetensors": "new",
        "runs/1/log.txt": "log",
        "runs/2/log.txt": "new log",
        "tokenizer.json": "old",
    }
    assert (path / "link").readlink() == Path("README.md")
    assert names(tmp_path) == ["m"]


def test_writing_a_tokenizer_into_a_model_keeps_its_weights_and_drops_the_old_tokenizer(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="c", model_safetensors="w", tokenizer_json="old", merges_txt="old")
    (path / "chat_template.jinja").write_text("old")
    save(path, tokenizer_json="new")
    assert tree(path) == {"config.json": "c", "model.safetensors": "w", "tokenizer.json": "new"}


def test_kept_files_are_copied_where_the_file_system_has_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = build(tmp_path / "m", config_json="old", README_md="mine")
    save(path, config_json="new")
    assert tree(path) == {"README.md": "mine", "config.json": "new"}


def test_a_directory_that_was_private_stays_private(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="old")
    path.chmod(0o700)
    save(path, config_json="new")
    assert path.stat().st_mode & 0o777 == 0o700 or os.name == "nt"


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    target = build(tmp_path / "run3", config_json="old")
    link = tmp_path / "latest"
    link.symlink_to("run3")
    save(link, config_json="new")
    assert link.is_symlink()
    assert tree(target) == {"config.json": "new"}


@pytest.mark.parametrize("files", [{}, {"config_json": "{}", "notes_txt": "x"}, {"tokenizer_json": "{}", "vocab_json": "{}"}])
def test_empty_directories_models_and_tokenizers_are_replaced(files: dict[str, str], tmp_path: Path) -> None:
    path = build(tmp_path / "m", **files)
    save(path, config_json="new")
    assert tree(path)["config.json"] == "new"


def test_any_other_directory_is_refused_and_untouched(tmp_path: Path) -> None:
    path = build(tmp_path / "photos", a_jpg="1", b_jpg="2")
    with pytest.raises(CheckpointError, match=r"got 2 other entries, 'a\.jpg' among them; name another directory: "):
        save(path, config_json="new")
    assert tree(tmp_path) == {"photos/a.jpg": "1", "photos/b.jpg": "2"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    with pytest.raises(CheckpointError, match="expected a directory to write to, got a file; name another"):
        save(tmp_path / "m", config_json="new")


def test_the_current_directory_is_refused_with_a_place_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"is the current directory, .* name a directory inside: .*model"):
        save(Path(), config_json="new")


# atomic_directory: failures


def test_an_error_in_the_block_leaves_the_old_state_and_no_litter(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="old")

    def fail() -> None:
        with atomic_directory(path) as writing:
            build(writing, config_json="new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tree(tmp_path) == {"m/config.json": "old"}
    assert names(tmp_path) == ["m"]


def test_a_file_of_the_caller_that_is_missing_is_not_blamed_on_the_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "m"):
        (tmp_path / "data.csv").read_text()


@pytest.mark.parametrize("step", ["block", "fsync", "rename"])
def test_a_full_disk_names_the_path_and_the_cure(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path / "m", config_json="old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail() -> None:
        with atomic_directory(path) as writing:
            build(writing, config_json="new")
            if step == "block":
                full()
            monkeypatch.setattr(os, step, full)

    with pytest.raises(CheckpointError) as error:
        fail()
    monkeypatch.undo()
    assert str(error.value).startswith(f"{path}: expected to write the directory, got: No space left on device")
    assert "what it held stands unchanged; free space there" in str(error.value)
    assert tree(tmp_path) == {"m/config.json": "old"}
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("step", ["m", ".m.gamut-new"])
def test_a_rename_that_fails_half_way_is_taken_back(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path / "m", config_json="old")
    rename = os.rename

    def fail(source: Path, target: Path) -> None:  # as Windows does while another program holds a file open
        if Path(source).name == step:
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CheckpointError, match=r"Permission denied.*what it held stands unchanged.*close programs"):
        save(path, config_json="new")
    assert tree(tmp_path) == {"m/config.json": "old"}
    assert names(tmp_path) == ["m"]


def test_a_file_system_that_cannot_flush_directories_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail_at_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_at_directories)
    save(tmp_path / "m", config_json="new")
    assert tree(tmp_path) == {"m/config.json": "new"}


def test_a_mount_point_is_refused_with_a_place_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(CheckpointError, match=r"is a mount point, .* name a directory inside: .*model"):
        save(tmp_path, config_json="new")


def test_a_read_only_parent_is_an_error_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)  # root, as whom containers run tests, may write everywhere
    with pytest.raises(CheckpointError, match=rf"Permission denied.*nothing was left there; allow writing to {tmp_path}"):
        save(tmp_path / "m", config_json="new")


def test_a_parent_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="name another directory"):
        save(tmp_path / "file" / "m", config_json="new")


# kills

KILL_EVERYWHERE = textwrap.dedent(
    """
    # Save over `old` again and again, each time in a child process that dies one file system call later than the last.
    import os, shutil, sys
    from pathlib import Path
    from gamut.checkpoint.io import atomic_directory, recover

    root, first = Path(sys.argv[1]), sys.argv[2] == "first"
    OLD = None if first else {"config.json": "old", "README.md": "mine", "model-00001-of-00001.safetensors": "old"}
    NEW = {"config.json": "new", "model.safetensors": "new"} | ({} if first else {"README.md": "mine"})
    CALLS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree")

    def put(directory, files):
        for name, text in files.items():
            (directory / name).write_text(text)

    def state(path):
        return {entry.name: entry.read_text() for entry in path.iterdir()} if path.exists() else None

    def die_at(number):
        left = [number]
        def hook(event, args):
            if event in CALLS:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
        sys.addaudithook(hook)

    outcomes = set()
    for number in range(1000):
        parent = root / str(number)
        path = parent / "m"
        parent.mkdir()
        if OLD:
            path.mkdir()
            put(path, OLD)
        child = os.fork()
        if not child:
            die_at(number)
            with atomic_directory(path) as writing:
                put(writing, {"config.json": "new", "model.safetensors": "new"})
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9), status
        recover(path)
        found = state(path)
        assert found in (OLD, NEW), (number, found)
        outcomes.add("new" if found == NEW else "old")
        with atomic_directory(path) as writing:  # and the next write finds its way and clears what was left
            put(writing, {"config.json": "third"})
        assert state(path)["config.json"] == "third"
        assert os.listdir(parent) == ["m"], (number, os.listdir(parent))
        if status == 0:
            break
    print(number, sorted(outcomes))
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
@pytest.mark.parametrize("case", ["first", "again"])
def test_a_kill_at_any_file_system_call_leaves_the_old_or_the_new_state(case: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL_EVERYWHERE, str(tmp_path), case], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls, outcomes = done.stdout.split(maxsplit=1)
    assert int(calls) > 8  # the kills did happen, at each call once
    assert outcomes.strip() == "['new', 'old']"


def test_recover_takes_the_new_state_before_the_old_one(tmp_path: Path) -> None:
    build(tmp_path / ".m.gamut-new", config_json="new")
    build(tmp_path / ".m.gamut-old", config_json="old")
    recover(tmp_path / "m")
    assert tree(tmp_path / "m") == {"config.json": "new"}


def test_recover_brings_back_the_old_state_where_there_is_no_new_one(tmp_path: Path) -> None:
    build(tmp_path / "m", config_json="old").rename(tmp_path / ".m.gamut-old")
    recover(tmp_path / "m")
    assert tree(tmp_path / "m") == {"config.json": "old"}


def test_recover_leaves_a_directory_that_is_there_and_one_that_never_was(tmp_path: Path) -> None:
    path = build(tmp_path / "m", config_json="old")
    recover(path)
    recover(tmp_path / "none" / "m")
    assert tree(tmp_path) == {"m/config.json": "old"}
    assert not (tmp_path / "none").exists()


def test_a_writer_that_still_lives_keeps_its_files_when_another_begins(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "m") as first:
        build(first, config_json="first")
        save(tmp_path / "m", config_json="second")
        assert tree(first) == {"config.json": "first"}
    assert tree(tmp_path / "m") == {"config.json": "first"}


def test_windows_writes_without_opening_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = os.open

    def spy(path: Path, flags: int, *rest: int, **named: int) -> int:
        opened.append(Path(path))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(io, "_WINDOWS", True)
    monkeypatch.setattr(os, "open", spy)
    with atomic_directory(tmp_path / "m") as writing:
        build(writing, config_json="new")
    assert [path.name for path in opened if path.name == "config.json"] == ["config.json"]
    assert not any(path.is_dir() for path in opened)
