"""DAS-Tune and DAS-LoRA: both stages on tiny models, what each trains, and one adapter that holds it all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from esft_bench.methods.ablation import SelectionAblation
from esft_bench.methods.das import DasTune
from esft_bench.methods.das_experts import DasExperts
from esft_bench.methods.das_lora import DasLora
from esft_bench.methods.errors import MethodError
from esft_bench.methods.method import Context, Method
from esft_bench.methods.moe.experts import selected_experts
from esft_bench.methods.moe.profile import Profile, profile
from esft_bench.methods.moe.scores import Scores, domain_advantage
from esft_bench.methods.moe.selection import highest_of_all
from esft_bench.methods.moe.view import moe_layers
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.registry import load_methods
from esft_bench.methods.unrelated_experts import UnrelatedExperts
from tests.methods.helpers import Outcome, load, logits, profiled, tensors, tokens, train

Checkpoints = Callable[[str], Path]
DAS: dict[str, DasTune | DasLora] = {"das-tune": DasTune(count=5), "das-lora": DasLora(count=5, rank=2)}
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
    experts = {f".layers.{n}.mlp.experts.{e}." for n, chosen in highest_of_all(advantage, 5).items() for e in chosen}
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
    assert sum(len(experts) for experts in config["experts"].values()) == 5
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
    domain = Profile((0,), 1, 1, 2, table, table, table, table, router_sums=table)
    lead = Context(0, general=replace(domain, router_sums=torch.tensor([[0.6, 0.1]]).double()))
    assert DasTune(count=1).choice(lead)(domain) == {0: [1]}
    assert DasTune(count=1, advantage=False).choice(lead)(domain) == {0: [0]}
    assert not DasTune(advantage=False).needs_general
    assert DasExperts(count=1).choice(lead)(domain) == {0: [1]}
    assert DasExperts(count=1, lowest=True).choice(lead)(domain) == {0: [0]}


def test_the_defaults_are_the_papers_main_row() -> None:
    """156 of V2-Lite's 26 x 64 experts, ranked together; stage 1 takes half of the steps."""
    scores = Scores(tuple(range(26)), torch.rand(26, 64, dtype=torch.float64), signed=True)
    method = DasTune()
    assert sum(map(len, method.take(scores).values())) == 156
    assert all(len(ids) == 6 for ids in DasTune(per_layer=True).take(scores).values())
    assert method.first_stage.share == 0.5
    assert (method.score, method.advantage) == ("router", True)


@pytest.mark.parametrize(
    ("settings", "most"), [({}, "16 experts in all layers"), ({"per_layer": True}, "8 experts in")]
)
def test_more_experts_than_there_are_are_refused_before_anything_is_trained(
    tiny_model: Callable[..., PreTrainedModel], settings: dict[str, bool], most: str
) -> None:
    with pytest.raises(MethodError, match=most):
        DasTune(count=17, **settings).check_model(tiny_model("deepseek-v2"))


@pytest.mark.parametrize("ablation", [RandomExperts, UnrelatedExperts])
def test_an_ablation_of_a_das_row_keeps_its_first_stage_and_its_counts(
    tiny_model: Callable[..., PreTrainedModel], ablation: type[SelectionAblation]
) -> None:
    model = tiny_model("deepseek-v2")
    context = Context(3, profiled(model), general_profile(model))
    of = DasTune(count=5)
    method = ablation.model_validate({"of": {"method": "das-tune", "count": 5}})
    assert method.first_stage == of.first_stage
    assert method.needs_general
    chosen, ranked = of.choice(context)(profiled(model)), of.ranking(profiled(model), context)
    other = method.select(profiled(model), context)
    assert {layer: len(ids) for layer, ids in other.items()} == {layer: len(ids) for layer, ids in chosen.items()}
    if ablation is UnrelatedExperts:
        for row, layer in zip(ranked.values, ranked.layers, strict=True):
            assert other[layer] == row.argsort()[: len(chosen[layer])].tolist()
    method.prepare(model, context)
    assert {n: selected_experts(layer) for n, layer in moe_layers(model).items()} == other


def test_a_das_lora_adapter_without_what_stage_1_trained_is_refused(tiny_checkpoint: Checkpoints) -> None:
    stages = TwoStages(DAS["das-lora"], tiny_checkpoint("deepseek-v2"))
    shutil.rmtree(stages.adapter / "stage_1")
    (stages.base.parent / "again").mkdir()
    with pytest.raises(MethodError, match="has no stage_1"):
        DAS["das-lora"].merge(stages.base, stages.adapter, stages.base.parent / "again")
