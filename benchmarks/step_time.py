"""Time of a training step, method by method, interleaved so that what else the machine does falls on all alike.

    python benchmarks/step_time.py [--shape mini|512|all] [--rounds 10] [--threads 1] [--checkpointing] [--method NAME]

A step is forward, backward and fused AdamW on 8 × 128 random tokens, float32, loss on every token. Times are CPU
seconds of this process, the median over rounds. Routing is that of a random router, near uniform: ESFT-Token then needs
more experts for its fifth of the tokens than on a trained model, so its times are on the safe side.
`--checkpointing` recomputes every layer in the backward pass (gradient checkpointing).
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft.tuners.lora.layer import ParamWrapper
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from esft_bench.methods.esft import EsftToken
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Context
from esft_bench.methods.moe.experts import UPDATES, use_selective_experts
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.recompute import checkpoint_gradients

SHAPES: dict[str, dict[str, int]] = {
    "mini": {"hidden_size": 128, "moe_intermediate_size": 32, "num_attention_heads": 4},
    "512": {"hidden_size": 512, "moe_intermediate_size": 128, "num_attention_heads": 8},
}
"""Both have 4 layers of 64 routed experts, 6 of them chosen, and 2 shared ones; `mini` is the shipped backbone's."""

Prepare = Callable[[PreTrainedModel, Profile], Sequence[nn.Parameter]]


def build(shape: str) -> DeepseekV2ForCausalLM:
    torch.manual_seed(0)
    config = DeepseekV2Config(
        vocab_size=2048,
        num_hidden_layers=4,
        intermediate_size=256,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=0,
        routed_scaling_factor=4.0,
        initializer_range=0.06,
        pad_token_id=0,
        **SHAPES[shape],
    )
    return DeepseekV2ForCausalLM(config).train()


def stock_fft(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """FFT as transformers runs it, with its fastest implementation."""
    model.set_experts_implementation("grouped_mm")
    return list(model.parameters())


def fft(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    return FullFineTuning().prepare(model, Context(seed=0))


def lora(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    return Lora(rank=2).prepare(model, Context(seed=0))


def lora_experts(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    return Lora(rank=2, experts=True).prepare(model, Context(seed=0))


def lora_experts_by_peft(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """The same on our experts kernel, with peft's own forward, which makes the product of each expert's factors."""
    parameters = lora_experts(model, seen)
    peft_form(model)
    return parameters


def peft_form(model: PreTrainedModel) -> None:
    """Have peft's own forward compute its updates of parameters again."""
    for module in model.modules():
        if isinstance(module, ParamWrapper):
            vars(module).pop("forward", None)
            vars(module.get_base_layer()).pop(UPDATES, None)


def esft_token(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    return EsftToken().prepare(model, Context(seed=0, profile=seen))


def gradient_mask(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """The usual stand-in on fused experts: train whole tensors and zero the gradient of the experts left out."""
    model.set_experts_implementation("grouped_mm")
    model.requires_grad_(False)
    selection, parameters = EsftToken().select(seen), []
    for index, layer in moe_layers(model).items():
        parameters += masked(layer.experts, selection[index])
    return parameters


def masked(experts: nn.Module, selected: Sequence[int]) -> list[nn.Parameter]:
    """Have an experts module train its fused tensors, the gradients of experts that are not selected made zero."""
    parameters = [experts.get_parameter(name) for name in ("gate_up_proj", "down_proj")]
    mask = torch.zeros(len(parameters[0]), 1, 1)
    mask[list(selected)] = 1
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.register_hook(lambda gradient: gradient * mask)
    return parameters


def module_loop(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """How the official code trains (deepseek-ai/ESFT, esft.py and deepseek/modeling_deepseek.py, one process).

    An expert is a module of three linear layers; those not selected hold buffers in place of parameters. Each is given
    the rows of a boolean mask of all token-expert pairs, and its output is assigned to the same rows.
    """
    model.requires_grad_(False)
    selection = EsftToken().select(seen)
    for index, layer in moe_layers(model).items():
        experts = range(layer.num_experts)
        layer.experts.one_by_one = nn.ModuleList(_Expert(layer.experts, i, i in selection[index]) for i in experts)
    model.set_experts_implementation("module_loop")
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class _Expert(nn.Module):
    def __init__(self, experts: Any, number: int, trained: bool) -> None:
        super().__init__()
        gate, up = experts.gate_up_proj[number].chunk(2)
        for name, weight in (("gate", gate), ("up", up), ("down", experts.down_proj[number])):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            del linear.weight
            if trained:
                linear.weight = nn.Parameter(weight.detach().clone())
            else:
                linear.register_buffer("weight", weight.detach().clone(), persistent=False)
            self.add_module(name, linear)
        self.activate = experts.act_fn

    def forward(self, rows: Tensor) -> Tensor:
        gate, up, down = (self.get_submodule(name) for name in ("gate", "up", "down"))
        result: Tensor = down(self.activate(gate(rows)) * up(rows))
        return result


def _module_loop_forward(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    rows = hidden.repeat_interleave(index.shape[1], dim=0)
    out = torch.empty_like(rows)
    for number, expert in enumerate(experts.one_by_one):
        mine = index.view(-1) == number
        out[mine] = expert(rows[mine])
    return (out.view(*index.shape, -1) * weights.unsqueeze(-1)).sum(1)


def fused_loop(model: PreTrainedModel, seen: Profile) -> Sequence[nn.Parameter]:
    """The best such loop: our banks, rows gathered by index and added up, as in transformers' eager forward."""
    model.requires_grad_(False)
    parameters = use_selective_experts(model, EsftToken().select(seen))
    model.set_experts_implementation("fused_loop")
    return parameters


def _fused_loop_forward(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    out = torch.zeros_like(hidden)
    bank = {}
    if len(experts.selected_experts):
        banks = zip(experts.selected_gate_up.unbind(), experts.selected_down.unbind(), strict=True)
        bank = dict(zip(experts.selected_experts.tolist(), banks, strict=True))
    for expert in range(len(experts.gate_up_proj)):
        token, place = torch.where(index == expert)
        gate_up, down = bank.get(expert, (experts.gate_up_proj[expert], experts.down_proj[expert]))
        rows = nn.functional.linear(experts._apply_gate(nn.functional.linear(hidden[token], gate_up)), down)
        out = out.index_add(0, token, rows * weights[token, place, None])
    return out


ALL_EXPERTS_FUNCTIONS.register("module_loop", _module_loop_forward)
ALL_EXPERTS_FUNCTIONS.register("fused_loop", _fused_loop_forward)

METHODS: dict[str, Prepare] = {
    "FFT, transformers' grouped_mm": stock_fft,
    "FFT": fft,
    "LoRA on attention, rank 2": lora,
    "LoRA on attention and experts, rank 2": lora_experts,
    "LoRA on attention and experts, rank 2, peft's form": lora_experts_by_peft,
    "ESFT-Token": esft_token,
    "ESFT-Token as gradient mask": gradient_mask,
    "ESFT-Token as the official loop over modules": module_loop,
    "ESFT-Token as a loop over fused experts": fused_loop,
}


def stepper(model: PreTrainedModel, parameters: Sequence[nn.Parameter], ids: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(shape: str, rounds: int, checkpointing: bool, methods: Mapping[str, Prepare]) -> Table:
    """Time a step of each method, round by round; ratios are to the first."""
    ids = torch.randint(3, 2048, (8, 128), generator=torch.Generator().manual_seed(0))
    seen = profile(build(shape), [(ids, torch.ones_like(ids))])
    steps, trained = {}, {}
    for name, prepare in methods.items():
        model = build(shape)
        if checkpointing:
            checkpoint_gradients(model)
        parameters = prepare(model, seen)
        trained[name] = sum(parameter.numel() for parameter in parameters)
        steps[name] = stepper(model, parameters, ids)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:  # the first round makes optimizer states
                seconds[name].append(time.process_time() - start)
    reference = next(iter(steps))
    method = EsftToken()
    chosen = [len(ids) for ids in method.select(seen).values()]
    table = Table(
        title=f"hidden {SHAPES[shape]['hidden_size']}, 4 layers, 64 experts top-6, 1024 tokens"
        f"{', gradient checkpointing' if checkpointing else ''}; ESFT-Token at p = {method.p} trains {chosen} experts"
    )
    for column in ("method", "CPU ms a step", "ratio to the first", "parameters trained"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds[reference], strict=True))
        table.add_row(name, f"{1e3 * statistics.median(values):.0f}", f"{ratio:.2f}", f"{trained[name]:,}")
    return table


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this row; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(width=120)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    console.print(f"{machine()}, {arguments.threads} thread(s), {versions}")
    methods = {name: METHODS[name] for name in METHODS if name in (arguments.method or METHODS)}
    for shape in SHAPES if arguments.shape == "all" else [arguments.shape]:
        console.print(measure(shape, arguments.rounds, arguments.checkpointing, methods))


if __name__ == "__main__":
    main()
