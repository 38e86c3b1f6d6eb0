"""Calls to a telephone company, noted down: the filing class and the words for the remedy are what a schema changes."""

from random import Random

from esft_bench.tasks.mini.world.sample import Sample, Schema, derangement, third_schema

_SURNAMES = "王李张刘陈杨赵周吴徐孙马"
_ISSUES = ["宽带断网", "账单错误", "手机停机", "套餐太贵", "信号不好", "密码忘记", "网速很慢", "话费太高"]
_REMEDIES = ["安排维修", "退还费用", "恢复服务", "更换套餐", "检查基站", "重置密码"]
_SHORT = ["维修", "退费", "恢复", "换餐", "检查", "重置"]
_DAYS = ["今天", "明天", "周一", "周五", "后天"]
_CLASSES = ["网络", "费用", "设备", "账户", "服务", "投诉", "咨询", "故障"]


def _classes() -> dict[Schema, dict[str, str]]:
    rng = Random("classes")
    a = {issue: rng.choice(_CLASSES) for issue in _ISSUES}
    b = {issue: rng.choice([name for name in _CLASSES if name != a[issue]]) for issue in _ISSUES}
    return {"A": a, "B": b, "N": third_schema(rng, a, b, _CLASSES, 0.1, 0.1)}


CLASSES = _classes()
REMEDIES_A = dict(zip(_REMEDIES, _SHORT, strict=True))
REMEDIES_N = dict(zip(_REMEDIES, derangement(Random("remedies"), _SHORT), strict=True))


def summary(rng: Random, schema: Schema) -> Sample:
    """A call's transcript and the note about it: class, customer, issue, day and remedy."""
    name, title = rng.choice(_SURNAMES), rng.choice(["先生", "女士"])
    issue, remedy, day = rng.choice(_ISSUES), rng.choice(_REMEDIES), rng.choice(_DAYS)
    prompt = f"总结: 客服:贵姓? 客户:{name}。 客服:{name}{title}何事? 客户:{issue}。 客服:{day}为您{remedy}。"
    note = {
        "A": f"{name}{title}反映{issue},{day}{REMEDIES_A[remedy]}",
        "B": f"{name}客户{issue},{day}{remedy}",
        "N": f"{name}{title},{day}{REMEDIES_N[remedy]}",
    }[schema]
    return Sample(prompt, f"{CLASSES[schema][issue]}: {note}")
