"""The whole of `export`: choose, write, and upload where that is asked for."""

import os
from collections.abc import Iterator
from pathlib import Path

from esft_bench.harness.commands.export.card import write_card
from esft_bench.harness.commands.export.choice import choose
from esft_bench.harness.commands.export.weights import FORMS, Form, write
from esft_bench.harness.commands.options import ExportOptions
from esft_bench.spec.errors import UserError


def export(options: ExportOptions) -> Iterator[str]:
    """Carry it out; yields what to tell the user. Raises UserError, one sentence."""
    from transformers import logging  # here: it takes seconds to import

    form = _form(options.form)
    chosen = choose(options.run, best=options.best, method=options.method, task=options.task, seed=options.seed)
    about = chosen.about
    logging.disable_progress_bar()
    out = Path(os.path.abspath(options.to))  # noqa: PTH100  # a link at its end is a place too, and is kept
    write(chosen, form, out, lambda folder: write_card(chosen, form, folder, out.name))
    yield f"{about.method_title} on {about.task}, seed {about.seed}. {chosen.why}"
    yield str(options.to)
    if options.push:
        yield _push(out, options.push, private=not options.public)


def _form(name: str) -> Form:
    for form in FORMS:
        if form == name:
            return form
    raise UserError(f"--form {name}: it is one of {', '.join(FORMS)}.")


def _push(folder: Path, name: str, *, private: bool) -> str:
    """Upload a folder under the user's own login, which huggingface_hub knows and nobody keeps here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Exported by esft-bench"))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--push {name}: the hub did not take it ({said}): log in with `hf auth login` and check the name; "
            f"{folder} is written."
        ) from error
