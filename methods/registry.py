"""All methods by name: those of this package and those other packages add under the entry point `esft_bench.methods`.

[project.entry-points."esft_bench.methods"]
my-method = "my_package.my_method:MyMethod"
"""

from importlib.metadata import entry_points

from methods.adapter import Adapter
from methods.all_experts import AllExperts
from methods.attention_router import AttentionRouter
from methods.base import Base
from methods.das import DasTune
from methods.das_lora import DasLora
from methods.errors import MethodError
from methods.esft import EsftGate, EsftToken
from methods.esft_lora import EsftLora
from methods.esft_router import EsftRouter
from methods.esft_union import EsftUnion
from methods.fft import FullFineTuning
from methods.lora import Lora
from methods.method import Method
from methods.random_experts import RandomExperts
from methods.top_k_experts import TopKExperts
from methods.unrelated_experts import UnrelatedExperts

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
