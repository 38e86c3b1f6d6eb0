"""DAS-Tune and DAS-LoRA: both stages on tiny models, what each trains, and one adapter that holds it all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.methods.das import DasTune
from esft_bench.methods.das_lora import DasLora
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.scores import domain_advantage
from esft_bench.methods.moe.selection import highest
from esft_bench.methods.registry import load_methods
from tests.methods.helpers import Outcome, load, logits, profiled, tensors, tokens, train

Checkpoints = Callable[[str], Path]
DAS: dict[str, DasTune | DasLora] = {"das-tune": DasTune(count=2), "das-lora": DasLora(count=2, rank=2)}
each_method = pytest.mark.parametrize("method", DAS.values(), ids=DAS)


def general_profile(model: PreTrainedModel) -> Profile:
    """A profile of other tokens than the domain's."""
    ids = tokens(seed=7)
    return profile(model, [(ids, torch.ones_like(ids))])


class TwoStages:
    """Both stages as the harness walks them: train, export, merge; then train what that made, and export."""

    def __init__(self, method: Method, base: Path) -> None:
        self.base = base
        assert method.first_stage is not None
        self.first = Outcome(load_methods()[method.first_stage.method](), base)
        self.adapter, self.out = base.parent / "das", base.parent / "das-merged"
        self.adapter.mkdir()
        self.out.mkdir()
        self.model = load(self.first.out)
        self.domain, self.general = profiled(self.model), general_profile(self.model)
        self.parameters = method.prepare(self.model, Context(seed=3, profile=self.domain, general=self.general))
        train(self.model, self.parameters)
        method.export(self.model, self.adapter)
        shutil.rmtree(self.first.adapter)  # the adapter must stand alone
        shutil.rmtree(self.first.out)
        method.merge(base, self.adapter, self.out)

    def changed(self) -> set[str]:
        """Names of tensors of which any byte differs between base and merged checkpoint."""
        before, after = tensors(self.base), tensors(self.out)
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}


@each_method
@pytest.mark.parametrize("architecture", ["deepseek-v2", "qwen3-moe"])
def test_one_adapter_makes_the_base_the_model_that_both_stages_trained(
    tiny_checkpoint: Checkpoints, architecture: str, method: Method
) -> None:
    """Attention, routers and the experts of the highest advantage differ from the base; not a byte of the rest does."""
    stages = TwoStages(method, tiny_checkpoint(architecture))
    torch.testing.assert_close(logits(load(stages.out)), logits(stages.model), atol=1e-5, rtol=1e-5)
    advantage = domain_advantage(stages.domain, stages.general)
    experts = {f".layers.{n}.mlp.experts.{e}." for n, chosen in highest(advantage, 2).items() for e in chosen}
    assert stages.changed() == {
        name
        for name in tensors(stages.base)
        if (".self_attn." in name and "norm" not in name)
        or name.endswith(".gate.weight")
        or any(part in name for part in experts)
    }


@each_method
def test_stage_2_trains_the_experts_alone(tiny_model: Callable[..., PreTrainedModel], method: Method) -> None:
    model = tiny_model("qwen2-moe")
    method.prepare(model, Context(seed=0, profile=profiled(model), general=general_profile(model)))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".experts." in name for name in trained)


def test_the_adapter_of_das_tune_has_the_official_layout(tiny_checkpoint: Checkpoints) -> None:
    stages = TwoStages(DAS["das-tune"], tiny_checkpoint("deepseek-v2"))
    config = json.loads((stages.adapter / "expert_cfg.json").read_text())
    assert all(len(experts) == 2 for experts in config["experts"].values())
    assert set(tensors(stages.adapter)) == stages.changed()


def test_without_a_general_profile_nothing_is_held_against_the_domain(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = tiny_model("deepseek-v2")
    seen = profiled(model)
    with pytest.raises(MethodError, match="general data, and none was given"):
        DasTune().prepare(model, Context(seed=0, profile=seen))
    with pytest.raises(MethodError, match=r"layers \[5, 6\]; profile both"):
        DasTune().prepare(model, Context(seed=0, profile=seen, general=replace(seen, layers=(5, 6))))


def test_experts_can_be_identified_by_the_domains_own_score_instead() -> None:
    """Expert 0 leads in the domain, but in general data even more; expert 1 has the advantage."""
    table = torch.tensor([[0.5, 0.4]]).double()
    domain = Profile((0,), 1, 4, 2, table, table, table, table)
    lead = replace(domain, gate_means=torch.tensor([[0.6, 0.1]]).double())
    assert DasTune(count=1).against(lead)(domain) == {0: [1]}
    assert DasTune(count=1, advantage=False).against(lead)(domain) == {0: [0]}


def test_a_das_lora_adapter_without_what_stage_1_trained_is_refused(tiny_checkpoint: Checkpoints) -> None:
    stages = TwoStages(DAS["das-lora"], tiny_checkpoint("deepseek-v2"))
    shutil.rmtree(stages.adapter / "stage_1")
    (stages.base.parent / "again").mkdir()
    with pytest.raises(MethodError, match="has no stage_1"):
        DAS["das-lora"].merge(stages.base, stages.adapter, stages.base.parent / "again")
