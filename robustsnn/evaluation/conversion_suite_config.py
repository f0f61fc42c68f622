"""The configuration of a suite of conversions: ANNs, what they convert to, and SNNs trained directly, as plain data."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from robustsnn.evaluation.config import AttackConfig, label_of
from robustsnn.evaluation.parsing import parse
from robustsnn.evaluation.suite import Suite, Variant


class ConversionRow(Variant):
    """One row: an ANN, a conversion of it, or an SNN trained directly."""

    source: str | None = Field(
        None, description="row whose trained ANN this one converts, instead of training the same one again"
    )

    @property
    def is_ann(self) -> bool:
        """Whether the row is an ANN, which has its own gradient only."""
        return bool(self.model.get("as_ann"))

    @property
    def benchmark(self) -> dict[str, Any]:
        """An ANN is attacked through its own gradient."""
        return {"rules": [{"name": "own", "title": "own"}]} if self.is_ann else {}


class ConversionSuite(Suite):
    """A whole suite of conversions; ``robustsnn benchmark --suite conversions --config FILE`` reads one from YAML."""

    rows = "conversions"
    row = "conversion"

    reference: str = Field("ann", description="the ANN whose adversarial examples are tried on all that have no source")
    conversions: tuple[ConversionRow, ...]
    transfer: AttackConfig = Field(
        AttackConfig(name="pgd", title="PGD-20", params={"steps": 20}),
        description="the attack on the ANN whose examples are tried on the others",
    )
    time_steps: tuple[int, ...] = Field((1, 2, 4, 8, 16, 32), min_length=1, description="T at which accuracy is read")
    n_energy: int = Field(100, ge=1, description="first n test images whose energy is measured")

    @model_validator(mode="after")
    def _made_of_earlier_anns(self) -> Self:
        earlier: set[str] = set()
        for row in self.conversions:
            if row.source is not None and row.source not in earlier:
                raise ValueError(
                    f"{row.name} is made of {row.source!r}, which is no ANN above it ({', '.join(sorted(earlier)) or 'none'})"
                )
            if row.is_ann:
                earlier.add(row.name)
        if self.reference not in earlier:
            raise ValueError(f"the reference {self.reference!r} must be an ANN: give its model `as_ann: true`")
        return self

    def transferred_from(self, row: Variant) -> str | None:
        """Name of the ANN whose adversarial examples a row is shown; None for the reference itself."""
        found = getattr(row, "source", None) or self.reference
        return None if found == row.name else found

    @property
    def transfer_label(self) -> str:
        """Name of the transferred attack in results."""
        return label_of(self.transfer)


def conversion_suite_of(content: dict[str, Any], source: str = "suite") -> ConversionSuite:
    """A `ConversionSuite` from plain data.

    Raises:
        RobustSNNError: a misspelt key (the nearest is suggested) or a value that makes no sense.
    """
    return parse(ConversionSuite, content, source)
