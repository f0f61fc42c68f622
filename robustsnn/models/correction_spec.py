"""Which correction a converted network has, as plain data that a configuration or a checkpoint can hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __str__(self) -> str:
        """Such as ``srp(probe_steps=4)``."""
        content = self.model_dump()
        return f"{content.pop('kind')}({', '.join(f'{name}={value}' for name, value in content.items())})"


class SRPSpec(_Spec):
    """Neurons silenced by their residual potential; see `robustsnn.conversion.with_srp`."""

    kind: Literal["srp"] = "srp"
    probe_steps: int = Field(4, ge=0, strict=True, description="steps before those that count")


class COSSpec(_Spec):
    """Neurons that start from shifted potentials; see `robustsnn.conversion.with_cos`."""

    kind: Literal["cos"] = "cos"
    probe_steps: int = Field(4, ge=0, strict=True, description="steps of one probing")
    iterations: int = Field(1, ge=1, strict=True, description="how often each neuron is probed and shifted")
    layerwise: bool = Field(True, strict=True, description="calibrate layers one after another, as published")


CORRECTION_SPECS: dict[str, type[SRPSpec | COSSpec]] = {"srp": SRPSpec, "cos": COSSpec}
"""The specs by their kind."""


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    found = CORRECTION_SPECS.get(str(kind))
    return None if found is None else found.__name__


CorrectionSpec = Annotated[
    Annotated[SRPSpec, Tag("SRPSpec")] | Annotated[COSSpec, Tag("COSSpec")],
    Discriminator(
        _kind,
        custom_error_type="correction",
        custom_error_message=f"a correction is {' or '.join(CORRECTION_SPECS)}, or its kind with its options",
    ),
    BeforeValidator(_named),
]
"""One of the specs; in a configuration also its name alone."""
