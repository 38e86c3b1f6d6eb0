"""A model that several processes share: served, and swapped slice by slice, as by one."""

from pathlib import Path

import pytest

from esft_bench.harness.serving.engines import VllmEngine
from esft_bench.harness.serving.server import Settings, arguments
from tests.harness.swaps import backbone, cells

ORDER = ("experts", "others", "base", "all", "experts")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["olmoe", "deepseek-v2", "qwen2-moe"])
def test_cells_are_swapped_into_a_model_that_two_processes_share(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    served = cells(backbone(architecture, tmp_path))
    engine = VllmEngine(tmp_path / "logs", Settings(max_length=128, tensor_parallel=2))
    try:
        for number, name in enumerate(ORDER):
            loaded = engine.load(served[name].model, served[name].canary)
            assert (loaded.how, loaded.difference < 5e-5) == ("swap" if number else loaded.how, True)
        assert len(list((tmp_path / "logs").iterdir())) == 1  # no restart
    finally:
        engine.close()


def test_a_server_is_told_how_many_share_its_model_and_asks_nobody_for_accelerators(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64}')
    alone = arguments(tmp_path, 1, Settings(), on_cpu=False)
    assert "--tensor-parallel-size" not in alone
    for on_cpu in (True, False):
        told = arguments(tmp_path, 1, Settings(tensor_parallel=4), on_cpu)
        assert told[told.index("--tensor-parallel-size") + 1] == "4"
        assert told[told.index("--distributed-executor-backend") + 1] == "mp"
