"""How a model is trained, as plain data that a configuration file can hold."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from robustsnn.defenses.augment import AUGMENTATIONS, names_of


class TrainConfig(BaseModel):
    """Optimiser, schedule, augmentation and selection; the objective is given apart.

    The defaults train the small ``cnn`` on the embedded digits. The setting of the literature for CIFAR (SR) is
    ``TrainConfig(epochs=200, batch_size=32, optimizer="sgd", lr=0.1, weight_decay=5e-4, augment="crop-flip")``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(
        default=32,
        ge=1,
        description="largest batch of one step of the optimiser, over all processes; an epoch is cut into nearly equal ones",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="parts that a process computes its batch in, one after the other, to save memory; their gradients add "
        "up to those of the whole, but each part has batch-norm statistics of its own",
    )
    precision: Literal["32", "bf16-mixed"] = Field(
        default="32", description="bf16-mixed: forward passes of the training in bfloat16 where that is harmless"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = Field(default=0.003, gt=0, allow_inf_nan=False, description="peak learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd; the others take no notice of it")
    weight_decay: float = Field(
        default=5e-4, ge=0, allow_inf_nan=False, description="on every parameter, batch norm and biases included"
    )
    schedule: Literal["cosine", "constant", "multistep"] = Field(
        default="cosine", description="after the warm-up, batch by batch"
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="of multistep: numbers of epochs after which lr is multiplied by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, lt=1, description="of multistep; the others take no notice of it")
    warmup_epochs: float = Field(default=0.0, ge=0, description="epochs of linear rise to lr at the beginning")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a running average of the weights, which is then what is measured and kept; typically .999",
    )
    augment: str | tuple[str, ...] = Field(
        default="none",
        description=f"none, or one or several of {', '.join(AUGMENTATIONS)}, in the order of their application; shift is "
        "crop, crop-flip is crop and flip",
    )
    validation_fraction: float = Field(
        default=0.1,
        ge=0,
        le=0.5,
        description="part of the training images held out to choose the best epoch; 0: the last one",
    )
    select_by: Literal["clean", "pgd"] = Field(
        default="clean",
        description="accuracy on held-out images by which the best epoch is chosen: as they are, or under PGD-10",
    )
    select_eps: float = Field(default=8 / 255, gt=0, le=1, description="l-inf radius of that PGD, in pixel units")
    select_images: int = Field(default=200, ge=1, description="held-out images that it attacks, at most")
    grad_clip: float | None = Field(default=None, gt=0, description="largest l2 norm of the gradient of all parameters")
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("precision", mode="before")
    @classmethod
    def _number_or_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # YAML reads 32 as a number

    @field_validator("augment")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names_of(value)
        return value

    @model_validator(mode="after")
    def _warm_up_ends(self) -> TrainConfig:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be less than epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _milestones_fit(self) -> TrainConfig:
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError("milestones and schedule: multistep go together; give both or neither")
        if list(self.milestones) != sorted({*self.milestones}):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        if self.milestones and not 1 <= self.milestones[0] <= self.milestones[-1] < self.epochs:
            raise ValueError(f"milestones must lie in 1..{self.epochs - 1}, got {list(self.milestones)}")
        return self

    @model_validator(mode="after")
    def _can_select(self) -> TrainConfig:
        if self.select_by == "pgd" and self.validation_fraction == 0:
            raise ValueError("select_by: pgd needs held-out images; give a validation_fraction above 0")
        return self

    @model_validator(mode="after")
    def _parts_have_images(self) -> TrainConfig:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"a batch of {self.batch_size} images cannot be cut into {self.accumulate} parts (accumulate)"
            )
        return self
