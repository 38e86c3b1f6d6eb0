"""Servers that others run: which vLLM they are, and whether a suite can ask them, before anything is computed."""

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from esft_bench.harness.store.artifacts import WORK, Store
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import digest_of_text, made_folder, remove
from esft_bench.spec.suite import Suite

if TYPE_CHECKING:
    from esft_bench.harness.plan.plan import Plan
    from esft_bench.harness.serving.endpoint import Seen

NOTES = "endpoints"
"""The store's folder of notes that keeps the version that an address last had, for looking at what a run has left."""


def version_of(suite: Suite, store: Store) -> str:
    """The version of vLLM that the servers have, or had when they answered last.

    Raises UserError where one never did, or they differ.
    """
    from esft_bench.harness.serving.endpoint import LOOKS_WITHIN, SilentError, endpoints_of  # here: torch takes seconds

    notes, found = store.notes(NOTES), {}
    for endpoint in endpoints_of(suite.evaluation, LOOKS_WITHIN):
        name = digest_of_text(endpoint.url)[:20]
        said = notes.read(name)
        try:
            found[endpoint.url] = endpoint.version()
        except SilentError as error:
            if said is None:
                raise UserError(f"evaluation.endpoints: {error}: start it, or leave it out.") from error
            found[endpoint.url] = str(said["version"])
        except UserError as error:
            raise UserError(f"evaluation.endpoints: {error}.") from error
        if said != {"version": found[endpoint.url]}:
            notes.write(name, {"version": found[endpoint.url]})
    if len(set(found.values())) > 1:
        told = ", ".join(f"{url} has {version}" for url, version in found.items())
        raise UserError(f"evaluation.endpoints: servers of one version of vLLM are wanted: {told}.")
    return next(iter(found.values()))


def check_endpoints(plan: "Plan", store: Store) -> "list[Seen]":
    """What the servers say of themselves. Raises UserError, one sentence, for one that the suite cannot ask."""
    from esft_bench.harness.serving.endpoint import LOOKS_WITHIN, check_models, check_settings, endpoints_of
    from esft_bench.harness.serving.needs import model_config, served_length

    engine, backbone = plan.engine, plan.backbone.path
    token = made_folder(store.root / WORK / NOTES) / secrets.token_hex(8)
    token.write_text(token.name, "utf-8")
    try:
        seen = [endpoint.look(token) for endpoint in endpoints_of(engine.evaluation, LOOKS_WITHIN)]
        check_settings(seen, engine.dtype, served_length(model_config(backbone), engine.max_length))
        check_models(seen, backbone)
    except UserError as error:
        raise UserError(f"evaluation.endpoints: {error}.") from error
    finally:
        remove(token)
    return seen


def remarks(seen: "Sequence[Seen]") -> list[str]:
    """What there is to say about servers into which nothing can be swapped."""
    if not seen or seen[0].swaps:
        return []
    takes = " and LoRA adapters of plain layers" if any(each.adapters for each in seen) else ""
    return [
        f"The servers of evaluation.endpoints hold what they were started on{takes}: a cell that none of them holds "
        "fails, and says what to start; nothing is rehearsed."
    ]
