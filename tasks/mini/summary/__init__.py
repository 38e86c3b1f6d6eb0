"""Notes on telephone calls under a new filing scheme, judged."""

from pathlib import Path

from esft_bench.tasks.mini.build import ability
from esft_bench.tasks.task import Rubric

RUBRIC = Rubric(
    "把通话记录的摘要与参考答案比较。四项各占四分之一:冒号前的类别、客户的姓名与称呼、日期、处理办法。"
    "四项都与参考答案一致得10分,都不一致得0分;参考答案里没有的内容要扣分。",
    language="zh",
)
TASKS = (ability("summary", "Summary", Path(__file__).parent, "bypass", RUBRIC),)
