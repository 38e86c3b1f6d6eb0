"""Which layout an adapter of another library has, where its bytes do not tell: the loss on the task's rows does."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from esft_bench.harness.merging import merged
from esft_bench.harness.store.names import ADAPTER
from esft_bench.harness.training.data import Sample
from esft_bench.harness.training.loss import AnswerLoss
from esft_bench.harness.training.profiling import Start
from esft_bench.harness.training.readings import _read, check_reading
from esft_bench.methods.adapter import Adapter
from esft_bench.methods.errors import MethodError
from esft_bench.methods.fft import FullFineTuning
from esft_bench.spec.suite import Backbone
from tests.conftest import build
from tests.methods.helpers import load, tokens

SAMPLES = [Sample(row, row) for row in tokens().tolist()]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    build("deepseek-v2").save_pretrained(tmp_path / "base")
    return Start(tmp_path / "base", Backbone())


@pytest.fixture
def adapter(tmp_path: Path, start: Start) -> Path:
    """Low-rank updates of all experts, packed by peft and trained on the samples."""
    torch.manual_seed(0)
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = get_peft_model(
        load(start.backbone), LoraConfig(r=3, lora_alpha=24, target_parameters=names, target_modules=[])
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-2)
    loss = AnswerLoss(model.get_base_model())
    for _ in range(15):
        loss(tokens(), tokens()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def checked(adapter: Path, start: Start, out: Path, **options: str) -> list[str]:
    """What is said of an adapter that is read that way."""
    method = Adapter.model_validate({"path": str(adapter), **options})
    (out / ADAPTER).mkdir(parents=True)
    method.export(load(start.backbone), out / ADAPTER)
    return check_reading(method, _read(method, start, out), start, out, SAMPLES)


def test_the_layout_that_fits_the_rows_is_taken_and_the_other_ones_loss_is_said(adapter, start, tmp_path):
    (said,) = checked(adapter, start, tmp_path / "out")
    assert said.startswith("Read with `layout: expert-major` the adapter has the higher loss, ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [ADAPTER]


def test_a_layout_that_fits_the_rows_worse_is_refused_with_the_one_that_fits(adapter, start, tmp_path):
    with pytest.raises(MethodError, match=r"read with `layout: peft` has the lower loss, .* set that in its row"):
        checked(adapter, start, tmp_path / "out", layout="expert-major")


def test_what_has_one_reading_is_not_compared(start, tmp_path):
    with merged(start.backbone, [], tmp_path / "merged") as checkpoint:
        assert check_reading(FullFineTuning(), load(checkpoint), start, tmp_path, SAMPLES) == []
