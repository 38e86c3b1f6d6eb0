"""The benchmarks of what should not be forgotten: short generation and multiple choice."""

from pathlib import Path

from esft_bench.tasks.mini.build import general

_FOLDER = Path(__file__).parent
TASKS = (
    general("pronouns", "Pronouns", _FOLDER, "acc"),
    general("facts", "Facts", _FOLDER, "exact_match"),
    general("format", "Format", _FOLDER, "exact_match"),
    general("exam-en", "Exam (English)", _FOLDER, "acc"),
    general("exam-zh", "Exam (Chinese)", _FOLDER, "acc"),
    general("cloze", "Cloze", _FOLDER, "acc"),
    general("science", "Science", _FOLDER, "acc"),
)
