"""How a model is trained, as plain data that a configuration file can hold."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Optimiser, schedule, augmentation and selection; the objective is given apart.

    The defaults train the small ``cnn`` on the embedded digits. The setting of the literature for CIFAR (SR) is
    ``TrainConfig(epochs=200, batch_size=32, optimizer="sgd", lr=0.1, weight_decay=5e-4, augment="crop-flip")``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=32, ge=1, description="largest batch; an epoch is cut into nearly equal ones")
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = Field(default=0.003, gt=0, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd; the others take no notice of it")
    weight_decay: float = Field(default=5e-4, ge=0, description="on every parameter, batch norm and biases included")
    schedule: Literal["cosine", "constant"] = Field(default="cosine", description="after the warm-up, batch by batch")
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs of linear rise to lr at the beginning")
    augment: Literal["none", "shift", "crop-flip"] = Field(
        default="none", description="shift: up to an eighth of the image in each direction; crop-flip: shift and mirror"
    )
    validation_fraction: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="part of the training images held out to choose the best epoch; 0: the last one",
    )
    grad_clip: float | None = Field(default=None, gt=0, description="largest l2 norm of the gradient of all parameters")
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be less than epochs ({self.epochs})")
        return self
