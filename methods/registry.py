"""All methods by name: those of this package and those other packages add under the entry point `methods`.

[project.entry-points."esft_bench.methods"]
my-method = "my_package.my_method:MyMethod"
"""

from importlib.metadata import entry_points

from esft_bench.methods.adapter import Adapter
from esft_bench.methods.all_experts import AllExperts
from esft_bench.methods.attention_router import AttentionRouter
from esft_bench.methods.base import Base
from esft_bench.methods.das import DasTune
from esft_bench.methods.das_lora import DasLora
from esft_bench.methods.errors import MethodError
from esft_bench.methods.esft import EsftGate, EsftToken
from esft_bench.methods.esft_lora import EsftLora
from esft_bench.methods.esft_router import EsftRouter
from esft_bench.methods.esft_union import EsftUnion
from esft_bench.methods.fft import FullFineTuning
from esft_bench.methods.lora import Lora
from esft_bench.methods.method import Method
from esft_bench.methods.random_experts import RandomExperts
from esft_bench.methods.top_k_experts import TopKExperts
from esft_bench.methods.unrelated_experts import UnrelatedExperts

METHODS: dict[str, type[Method]] = {
    "base": Base,
    "adapter": Adapter,
    "fft": FullFineTuning,
    "lora": Lora,
    "esft-gate": EsftGate,
    "esft-token": EsftToken,
    "esft-lora": EsftLora,
    "esft-router": EsftRouter,
    "esft-union": EsftUnion,
    "random-experts": RandomExperts,
    "unrelated-experts": UnrelatedExperts,
    "top-k-experts": TopKExperts,
    "all-experts": AllExperts,
    "attention-router": AttentionRouter,
    "das-tune": DasTune,
    "das-lora": DasLora,
}


def load_methods() -> dict[str, type[Method]]:
    """All methods by name.

    Raises MethodError where an entry point cannot be loaded, is no Method or takes a name in use.
    """
    methods = dict(METHODS)
    for point in entry_points(group="esft_bench.methods"):
        origin = f"the entry point '{point.name}' ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:  # another package's import may fail in any way
            raise MethodError(f"{origin} cannot be loaded: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Method)):
            raise MethodError(f"{origin} is no subclass of methods.method.Method")
        if point.name in methods:
            raise MethodError(f"{origin} takes the name of a method that exists; rename it")
        methods[point.name] = loaded
    return methods
