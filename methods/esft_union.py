"""ESFT for several tasks at once: the experts that any of them selects, trained on the tasks' mixture.

A combination that people ask for; the ESFT paper trains one task at a time.
"""

from __future__ import annotations

from typing import ClassVar

from esft_bench.methods.esft import EsftGate


class EsftUnion(EsftGate):
    """Train the union of the tasks' selections on all tasks together; ESFT-Gate's selection by default.

    Every method that selects experts takes such a union where a row's tasks are trained together; this one asks for it.
    """

    name: ClassVar[str] = "esft-union"

    @property
    def together(self) -> bool:
        """One cell trains all tasks."""
        return True
