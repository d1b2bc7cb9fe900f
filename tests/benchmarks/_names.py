"""What is compared, by name: apart, since the report is written without Keras."""

from __future__ import annotations

CONSTANT = "constant rate"
AGAIN = "constant rate, again"
STEP = "StepDecay, every 10 epochs"
MILESTONES = "StepDecay, 5 milestones"
INVERSE = "InverseTimeDecay"
WARMUP = "LinearWarmup over StepDecay"
PLATEAU_FLOAT = "PlateauDecay over a float"
PLATEAU_STEP = "PlateauDecay over StepDecay"
PLATEAU_COSINE = "PlateauDecay over Keras CosineDecay"
EXPONENTIAL = "Keras ExponentialDecay, staircase"
PIECEWISE = "Keras PiecewiseConstantDecay, 5 boundaries"
KERAS_INVERSE = "Keras InverseTimeDecay"
COSINE = "Keras CosineDecay"
KERAS_PLATEAU = "Keras ReduceLROnPlateau, end of an epoch"


def milestones(count: int) -> str:
    return f"StepDecay, {count:,} milestones"
