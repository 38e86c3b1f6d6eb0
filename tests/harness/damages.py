"""Ways in which what lies on a disk stops being what was written: to a file, and to an artifact's folder."""

import json
import shutil
from pathlib import Path

from esft_bench.harness.store import soundness
from esft_bench.harness.store.manifest import Manifest


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def prolonged(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"}")


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe{" + b"\0" * 100)


def deleted(path: Path) -> None:
    path.unlink()


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def linked_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


TO_A_FILE = [flipped, emptied, halved, prolonged, garbage, deleted, made_a_folder, linked_to_itself, linked_to_nothing]


def made_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def replaced_by_a_link_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def given_a_further_file(folder: Path) -> None:
    (folder / "further.json").write_text("{}")


def emptied_out(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def manifest(of: Path) -> Manifest:
    return Manifest.model_validate_json((of / "manifest.json").read_bytes())


def edited_manifest(folder: Path) -> None:
    """What was measured is another number; all else is as it was."""
    changed = manifest(folder).model_copy(update={"measured": {"seconds": 1.0}})
    (folder / "manifest.json").write_text(changed.model_dump_json())


def edited_files_and_manifest(folder: Path) -> None:
    """A file is edited, and what the manifest says of files, with a seal that fits; the digest of the whole is not."""
    given_a_further_file(folder)
    found = soundness.files_in(folder)
    del found["manifest.json"]
    changed = manifest(folder).model_copy(update={"files": soundness.described(folder, found)}).sealed
    (folder / "manifest.json").write_text(changed.model_dump_json())


def manifest_of_an_older_version(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"kind": folder.parent.name, "key": folder.name, "digest": "0"}))


TO_A_FOLDER = [
    *(made_a_file, replaced_by_a_link_to_nothing, given_a_further_file, emptied_out, edited_manifest),
    *(edited_files_and_manifest, manifest_of_an_older_version),
]


def exchanged(one: Path, other: Path) -> None:
    """Two artifacts each under the other's key."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def edited_score(path: Path) -> None:
    """One digit of one score."""
    lines = path.read_text().splitlines(keepends=True)
    row = json.loads(lines[0])
    row["score"] = 0.0 if row["score"] else 1.0
    path.write_text("".join([json.dumps(row, ensure_ascii=False) + "\n", *lines[1:]]))
