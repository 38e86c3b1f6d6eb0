"""Time of a step that trains some experts: ours, and what peft and transformers publicly offer for it, interleaved.

    python -m benchmarks.some_experts [--shape mini|512] [--rounds 10] [--threads 1]

The model and the step are those of `benchmarks.step_time`, the experts those that ESFT-Token selects. No library's
public way trains single experts of a fused tensor. What there is: train whole tensors and zero the gradients of the
other experts, with `requires_grad` or as peft's `modules_to_save`; or train low-rank updates of all experts, peft's
`target_parameters`, which trains less of each and more of them. All run on transformers' `grouped_mm`.

unsloth (2026.10.9) is not among them: it offers `target_parameters` through peft, selects no experts, and wants
transformers 5.17 at most, which has no experts interface that our kernel can take.
"""

import argparse
from collections.abc import Sequence

import torch
import transformers
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from benchmarks.step_time import SHAPES, Prepare, esft_token, gradient_mask, machine, masked, measure, stock_fft
from esft_bench.methods.esft import EsftToken
from esft_bench.methods.moe.profile import Profile
from esft_bench.methods.moe.view import moe_layers


def modules_to_save(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """peft's copies of whole experts modules, trained under a mask; the adapter it demands beside them stays frozen."""
    model.set_experts_implementation("grouped_mm")
    selection, layers = EsftToken().select(seen), moe_layers(model)
    names = [layer.name for layer in layers.values()]
    get_peft_model(model, LoraConfig(r=1, target_modules=["o_proj"], modules_to_save=names))
    model.requires_grad_(False)
    parameters: list[nn.Parameter] = []
    for index, name in zip(layers, names, strict=True):
        parameters += masked(model.get_submodule(f"{name}.modules_to_save.default"), selection[index])
    return parameters


def target_parameters(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """peft's low-rank updates of all routed experts, and of nothing else."""
    model.set_experts_implementation("grouped_mm")
    names = [f"{layer.name}.{kind}" for layer in moe_layers(model).values() for kind in layer.weights]
    get_peft_model(model, LoraConfig(r=2, target_modules=[], target_parameters=names))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


METHODS: dict[str, Prepare] = {
    "ESFT-Token": esft_token,
    "whole tensors, gradient mask": gradient_mask,
    "peft, modules_to_save, gradient mask": modules_to_save,
    "peft, target_parameters of all experts, rank 2": target_parameters,
    "FFT": stock_fft,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="512")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(width=120)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    console.print(f"{machine()}, {arguments.threads} thread(s), {versions}")
    console.print(measure(arguments.shape, arguments.rounds, False, METHODS))


if __name__ == "__main__":
    main()
