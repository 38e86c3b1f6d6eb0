"""What this code uses of libraries without their promise to keep it. The one list of such names; a test asks for each.

A name belongs here if it, or the module it is imported from, begins with an underscore, or if the library's own
documentation does not describe the module. pyproject.toml caps these libraries at the versions the names were seen in.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("harness", "methods", "reports", "spec", "tasks")
FOLDERS = (*PACKAGES, "benchmarks", "tests")
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "lm_eval", "vllm", "torchao", "ray")
DOCUMENTED = (
    "torch.distributed",
    "torch.distributed.checkpoint",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn",
    "torch.nn.utils",
    "torch.profiler",
    "accelerate.state",
    "accelerate.utils",
    "lm_eval.api.instance",
    "lm_eval.api.model",
    "lm_eval.api.task",
    "lm_eval.tasks",
    "torchao.optim",
    "ray.exceptions",
    "ray.util",
    "ray.util.placement_group",
    "ray.util.scheduling_strategies",
    "ray.cluster_utils",
)
"""Modules below a library's own that its documentation describes."""


@dataclass(frozen=True)
class PrivateName:
    """A name in a library.

    Attributes:
        module: where the library has it.
        name: the name as our code spells it.
        sign: what stands in the module's source if the module cannot be asked: what only instances have, and vLLM,
            which takes long to import. Empty: the module is asked for `name`.
        why: what it is used for.
    """

    module: str
    name: str
    why: str
    sign: str = ""

    @property
    def library(self) -> str:
        """The package of the module."""
        return self.module.partition(".")[0]

    @property
    def spellings(self) -> tuple[tuple[str, str], ...]:
        """As `found_in` may come upon it: imported, an attribute, or an attribute of the imported module."""
        package, _, module = self.module.rpartition(".")
        return (self.module, self.name), ("", self.name), (package, module)


_STEP = "an estimate carries out a training step on shapes alone"
_UNPACKED = "ours is held against what transformers makes of quantised weights"
_EXPERTS = "selected experts are trained, and experts observed, by an experts implementation of our own"
_APART = "tokens go to the processes that hold their experts by transformers' own parts"
_OTHERS = "a server that others run is looked at, and handed an adapter"
_SWAP = "the weights of a running server are replaced in place"
_START = "half of a server's start-up time on a CPU"
_FORKED = "processes of tests are forked from one that has imported what they need"
_TEXTS = "long texts are cut into lm-eval's own windows, for both engines alike"
_REQUESTS = "options of one question share the queries for their common beginning"
_ONCE = "requests are built once and asked of many models"
_PACKED = "samples of one sequence do not attend to each other"
_TASKS = "benchmarks are lm-eval configurations that lie beside our tasks"

NAMES = (
    PrivateName("torch._subclasses.fake_tensor", "FakeTensorMode", _STEP),
    PrivateName("torch.utils._python_dispatch", "TorchDispatchMode", _STEP),
    PrivateName("torch.utils._pytree", "tree_map_only", _STEP),
    PrivateName("torch.utils.flop_counter", "flop_registry", _STEP),
    PrivateName("torch.utils.flop_counter", "sdpa_flop_count", _STEP),
    PrivateName("torch.utils.flop_counter", "sdpa_backward_flop_count", _STEP),
    PrivateName("torch.utils.weak", "WeakIdKeyDictionary", _STEP),
    PrivateName("torch.ops.aten", "_scaled_dot_product_flash_attention_for_cpu", _STEP),
    PrivateName("torch.ops.aten", "_scaled_dot_product_flash_attention_for_cpu_backward", _STEP),
    PrivateName("torch._ops", "_overloadpacket", _STEP, sign="self._overloadpacket ="),
    PrivateName("ray._private.worker", "_worker_logs_enabled", "what its nodes complain of stays off the terminal"),
    PrivateName("torchao.optim", "_AdamW", "AdamW with weights in bfloat16, rounded at random"),
    PrivateName("transformers.integrations.finegrained_fp8", "Fp8Dequantize", _UNPACKED),
    PrivateName("transformers.integrations.mxfp4", "convert_moe_packed_tensors", _UNPACKED),
    PrivateName("transformers.integrations.moe", "ALL_EXPERTS_FUNCTIONS", _EXPERTS),
    PrivateName("transformers.integrations.moe", "_grouped_linear", _EXPERTS),
    PrivateName("transformers.integrations.moe", "_apply_gate", _EXPERTS, sign="experts_class._apply_gate ="),
    PrivateName("transformers.integrations.moe", "has_gate", _EXPERTS, sign="self.has_gate ="),
    PrivateName("transformers.integrations.moe", "has_bias", _EXPERTS, sign="self.has_bias ="),
    PrivateName("transformers.integrations.moe", "is_transposed", _EXPERTS, sign="self.is_transposed ="),
    PrivateName("transformers.distributed.tensor_parallel", "EpDispatchExpertsParallel", _APART),
    PrivateName("transformers.distributed.tensor_parallel", "_dispatch_tokens", _APART, sign="def _dispatch_tokens("),
    PrivateName(
        "transformers.distributed.tensor_parallel", "_run_local_experts", _APART, sign="def _run_local_experts("
    ),
    PrivateName("transformers.distributed.tensor_parallel", "_combine_tokens", _APART, sign="def _combine_tokens("),
    PrivateName("torch.distributed._functional_collectives", "all_to_all_single", _APART),
    PrivateName(
        "transformers.configuration_utils", "_experts_implementation", _EXPERTS, sign="def _experts_implementation("
    ),
    PrivateName("transformers.masking_utils", "create_masks_for_generate", _PACKED),
    PrivateName("transformers.configuration_utils", "_attn_implementation", _PACKED, sign="def _attn_implementation("),
    PrivateName("transformers.data.metrics.squad_metrics", "compute_f1", "a user's own rows are scored by token F1"),
    PrivateName("transformers.models.llama.modeling_llama", "LlamaMLP", "a test writes DeepSeek-MoE's own model down"),
    PrivateName(
        "transformers.core_model_loading",
        "revert_weight_conversion",
        "adapters have the names that hub checkpoints have",
    ),
    PrivateName(
        "transformers.core_model_loading",
        "_weight_conversions",
        "adapters have the names that hub checkpoints have",
        sign="model._weight_conversions =",
    ),
    PrivateName(
        "transformers.modeling_utils",
        "_no_split_modules",
        "several processes shard a model layer by layer",
        sign="_no_split_modules:",
    ),
    PrivateName(
        "transformers.models.auto.modeling_auto",
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "docs/architectures.md lists what fits of all architectures",
    ),
    PrivateName(
        "transformers.dynamic_module_utils", "get_class_from_dynamic_module", "a backbone brings code of its own"
    ),
    PrivateName(
        "torch.nn.modules.module",
        "_buffers",
        "the buffers of a shared model come from one process",
        sign="_buffers: dict",
    ),
    PrivateName(
        "torch.distributed.checkpoint.api", "CheckpointException", "it holds the error of the process that failed"
    ),
    PrivateName(
        "torch.distributed.checkpoint.filesystem", "FileSystemReader", "what a checkpoint holds is read from it"
    ),
    PrivateName("torch.distributed.checkpoint.filesystem", "_write_item", "a test has a writing killed"),
    PrivateName("torch.distributed.checkpoint.metadata", "TensorStorageMetadata", "the shapes of a log's tensors"),
    PrivateName("accelerate.state", "_reset_state", "a test trains in two precisions", sign="def _reset_state("),
    PrivateName("peft.tuners.lora.layer", "LoraLayer", "the inputs of all updates are dropped"),
    PrivateName("peft.tuners.lora.layer", "ParamWrapper", "updates of experts are computed in split form"),
    PrivateName("peft.utils.other", "get_pattern_key", "an adapter's ranks by name are read as peft reads them"),
    PrivateName("lm_eval.tasks._yaml_loader", "load_yaml", _TASKS),
    PrivateName("lm_eval.evaluator", "group_map", _TASKS, sign="'group_map'"),
    PrivateName("lm_eval.utils", "handle_non_serializable", _TASKS),
    PrivateName("lm_eval.utils", "apply_template", _TASKS),
    PrivateName("lm_eval.utils", "get_rolling_token_windows", _TEXTS),
    PrivateName("lm_eval.utils", "make_disjoint_window", _TEXTS),
    PrivateName("lm_eval.utils", "env", "a template is compiled once, and not for every item"),
    PrivateName("lm_eval.api.task", "build_all_requests", _ONCE, sign="def build_all_requests("),
    PrivateName("lm_eval.api.task", "eval_docs", _ONCE, sign="def eval_docs("),
    PrivateName("lm_eval.tasks.ifeval.utils", "process_results", "IFEval is scored by lm-eval's own rules"),
    PrivateName("lm_eval.api.task", "_instances", "a test scores answers without a model", sign="self._instances:"),
    PrivateName("lm_eval.models.openai_completions", "LocalCompletionsAPI", _REQUESTS),
    PrivateName("lm_eval.models.openai_completions", "_create_payload", _REQUESTS, sign="def _create_payload("),
    PrivateName("lm_eval.models.api_models", "amodel_call", _REQUESTS, sign="async def amodel_call("),
    PrivateName("lm_eval.models.api_models", "_loglikelihood_tokens", _REQUESTS, sign="def _loglikelihood_tokens("),
    PrivateName("lm_eval.models.api_models", "add_bos_token", _REQUESTS, sign="self.add_bos_token ="),
    PrivateName("lm_eval.api.model", "_encode_pair", "an answer's ids are those of training", sign="def _encode_pair("),
    PrivateName(
        "lm_eval.models.huggingface", "_model_generate", "a test compares both engines", sign="def _model_generate("
    ),
    PrivateName("lm_eval.models.huggingface", "HFLM", "the transformers engine answers benchmarks"),
    PrivateName(
        "vllm.entrypoints.cli.main", "main", "a server ends with the process that started it", sign="def main()"
    ),
    PrivateName("vllm.entrypoints.cli.serve", "ServeSubcommand", _FORKED, sign="class ServeSubcommand"),
    PrivateName("vllm.v1.engine.core", "EngineCore", _FORKED, sign="class EngineCore:"),
    PrivateName("torch.multiprocessing.spawn", "start_processes", _FORKED, sign="def start_processes("),
    PrivateName("torch.multiprocessing.spawn", "ProcessRaisedException", _FORKED, sign="class ProcessRaisedException"),
    PrivateName("vllm.platforms", "current_platform", _SWAP, sign="current_platform: Platform"),
    PrivateName("vllm.utils.system_utils", "get_mp_context", _START, sign="def get_mp_context()"),
    PrivateName("vllm.model_executor.models.registry", "_run_in_subprocess", _START, sign="def _run_in_subprocess(fn"),
    PrivateName("vllm.model_executor.models", "registry", _START, sign="from .registry import"),
    PrivateName("vllm.config.parallel", "WeightSwap", _SWAP, sign="worker_extension_cls: str"),
    PrivateName("vllm.entrypoints.serve.dev.rpc.api_router", "collective_rpc", _SWAP, sign='"/collective_rpc"'),
    PrivateName(
        "vllm.entrypoints.serve.dev.cache.api_router", "reset_prefix_cache", _SWAP, sign='"/reset_prefix_cache"'
    ),
    PrivateName("vllm.entrypoints.serve.lora.api_router", "load_lora_adapter", _OTHERS, sign='"/v1/load_lora_adapter"'),
    PrivateName(
        "vllm.entrypoints.serve.lora.api_router", "unload_lora_adapter", _OTHERS, sign='"/v1/unload_lora_adapter"'
    ),
    PrivateName("vllm.entrypoints.serve.dev.server_info.api_router", "server_info", _OTHERS, sign='"/server_info"'),
    PrivateName("vllm.envs", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", _OTHERS, sign="VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    PrivateName("vllm.envs", "VLLM_SERVER_DEV_MODE", _SWAP, sign='"VLLM_SERVER_DEV_MODE": lambda'),
    *(
        PrivateName(f"vllm.{module}", name, _SWAP, sign=sign)
        for module, name, sign in (
            ("config", "set_current_vllm_config", "set_current_vllm_config"),
            (
                "distributed.parallel_state",
                "get_tensor_model_parallel_world_size",
                "def get_tensor_model_parallel_world_size()",
            ),
            ("distributed.parallel_state", "model_parallel_is_initialized", "def model_parallel_is_initialized()"),
            ("model_executor.model_loader.reload", "initialize_layerwise_reload", "initialize_layerwise_reload"),
            ("model_executor.model_loader.reload", "finalize_layerwise_reload", "finalize_layerwise_reload"),
            ("model_executor.model_loader.reload.layerwise", "get_layerwise_info", "def get_layerwise_info("),
            ("model_executor.model_loader.reload.utils", "get_layer_tensors", "def get_layer_tensors("),
            ("model_executor.model_loader.weight_utils", "default_weight_loader", "def default_weight_loader("),
            ("model_executor.layers.linear", "LinearMethodBase", "class LinearMethodBase("),
            (
                "model_executor.layers.fused_moe.unquantized_fused_moe_method",
                "UnquantizedFusedMoEMethod",
                "class UnquantizedFusedMoEMethod(",
            ),
        )
    ),
    PrivateName("torch.nn.modules.module", "_parameters", _SWAP, sign="_parameters: dict"),
    PrivateName("vllm.v1.worker.cpu_model_runner", "get_model", _SWAP, sign="def get_model(self)"),
    PrivateName(
        "vllm.model_executor.layers.fused_moe.routed_experts", "quant_method", _SWAP, sign="self.quant_method = "
    ),
    PrivateName(
        "vllm.model_executor.layers.fused_moe.fused_moe_method_base", "moe_kernel", _SWAP, sign="self.moe_kernel:"
    ),
)


def sources() -> Iterator[Path]:
    """Every Python file of ours but this one."""
    for folder in FOLDERS:
        yield from (path for path in sorted((REPOSITORY / folder).rglob("*.py")) if path != Path(__file__))


def users(name: str) -> list[str]:
    """The files that say a name, from the repository's root."""
    return [str(path.relative_to(REPOSITORY)) for path in sources() if name in path.read_text("utf-8")]


def found_in(text: str, own: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """(module, name) of each private name that a source uses; the module of an attribute is "".

    Attributes of `self` and those in `own` are ours, unless they are asked of `super()`.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, each.name) for each in node.names if _is_private(node.module, each.name))
        elif isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names if _is_private(each.name, ""))
        elif isinstance(node, ast.Attribute) and _is_foreign(node.value, node.attr, own):
            yield "", node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            of, name = node.args[0], node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and _is_foreign(of, name.value, own):
                yield "", name.value


def defined_in(text: str) -> Iterator[str]:
    """The names with an underscore that a source defines: functions, classes, variables, fields."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def _underscored(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_private(module: str, name: str) -> bool:
    library, _, inner = module.partition(".")
    if library not in LIBRARIES:
        return False
    documented = not inner or module in DOCUMENTED
    return not documented or any(_underscored(part) for part in (*module.split("."), name))


def _is_foreign(of: ast.expr, name: str, own: frozenset[str]) -> bool:
    if not _underscored(name) or (isinstance(of, ast.Name) and of.id in ("self", "cls", "os", "sys")):
        return False
    of_super = isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super"
    return of_super or name not in own
