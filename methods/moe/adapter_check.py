"""Whether an adapter in ESFT's layout is whole: each expert that it names, with all its parts, and nothing else."""

from pathlib import Path

from esft_bench.methods.errors import MethodError
from esft_bench.methods.moe.export import parts_of_experts
from esft_bench.methods.moe.layout import CONFIG, PLACE, base_name, read_config
from esft_bench.methods.overlay import changes_of
from esft_bench.methods.tensor_files import TensorFiles


def check_adapter(adapter: Path, base: Path) -> None:
    """Refuse an adapter that is not whole or not of `base`, before anything is written.

    Every expert that `expert_cfg.json` names has all the parts that the base has of it; there is nothing else but what
    the options there name; all of it has the base's shapes and a float type. Raises MethodError naming the tensor.
    """
    config = read_config(adapter)
    named = {(layer, expert) for layer, experts in config.experts.items() for expert in experts}
    changes = changes_of(base, adapter, base_name)
    found: dict[tuple[int, int], set[str]] = {}
    for name in changes.sources:
        place = PLACE.search(name)
        if place is None:
            if config.leaves_out(name) and name not in config.other_tensors:
                raise MethodError(f"{adapter} changes `{name}`, and its {CONFIG} (ESFT's layout) does not say so")
            continue
        layer, expert = int(place[1]), int(place[2] or place[3])
        if (layer, expert) not in named:
            raise MethodError(
                f"{adapter} changes expert {expert} of layer {layer}, which its {CONFIG} (ESFT's layout) does not name"
            )
        found.setdefault((layer, expert), set()).add(name)
    every = _parts(changes.old)
    for layer, expert in sorted(named):
        parts = every.get((layer, expert))
        if parts is None:
            raise MethodError(f"{adapter / CONFIG} names expert {expert} of layer {layer}, which {base} does not have")
        if missing := sorted(parts - found.get((layer, expert), set())):
            raise MethodError(
                f"{adapter / CONFIG} (ESFT's layout) names expert {expert} of layer {layer}, of which the adapter has "
                f"no `{missing[0]}`; export or fetch it again"
            )


def _parts(base: TensorFiles) -> dict[tuple[int, int], set[str]]:
    """Names of all that an expert (layer, id) consists of."""
    parts: dict[tuple[int, int], set[str]] = {}
    for name in base.files:
        if (place := PLACE.search(name)) and place[2]:
            parts.setdefault((int(place[1]), int(place[2])), set()).add(name)
    if parts:
        return parts
    return parts_of_experts(base.folder)  # a checkpoint with one tensor for a layer's experts
