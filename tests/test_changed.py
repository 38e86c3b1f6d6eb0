"""`make check` runs the tests nearest to what was changed."""

import pytest

from tests.changed import PACKAGES, REPOSITORY, nearest_tests


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        ("tests/test_changed.py", "tests/test_changed.py"),
        ("tests/changed.py", "tests/test_changed.py"),
        ("spec/version.py", "tests/spec/test_version.py"),
        ("reports/published/esft.yaml", "tests/reports/test_paper.py"),
        ("tests/tasks/conftest.py", "tests/tasks/test_sandbox.py"),
        ("tasks/sandbox_child.py", "tests/tasks/test_sandbox.py"),
    ],
)
def test_a_change_has_its_tests(changed, near):
    assert near in nearest_tests([changed])


def test_a_change_has_no_tests_that_are_far_from_it():
    assert nearest_tests(["spec/version.py"]) == ["tests/spec/test_version.py"]
    assert not nearest_tests(["README.md", "docs/tasks.md"])


def test_no_module_is_without_tests():
    modules = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    assert all(nearest_tests([str(path.relative_to(REPOSITORY))]) for path in modules)
