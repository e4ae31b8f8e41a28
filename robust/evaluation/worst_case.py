"""Robustness is what is left of an image after all attacks: per crop and epsilon, the attack that went furthest.

Source: Croce & Hein 2020 (AutoAttack): a figure is taken over images, the worst case over attacks for each, not as a mean.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORST = "worst"
"""Stands for an attack's name in tables and in `evaluate.headline`."""


def with_worst_case(predictions: pa.Table) -> pa.Table:
    """The predictions and, if there are several attacks, rows of the attack "worst".

    A video's logit is then the mean of its frames' worst ones: an attacker may use another attack on each frame.

    Args:
        predictions: PREDICTION_SCHEMA, each model, attack and epsilon on the same crops.
    """
    if len(pc.unique(predictions.column("attack"))) < 2:
        return predictions
    labels = predictions.column("label").to_numpy().astype(np.int64)
    loss = (1 - 2 * labels) * predictions.column("adversarial").to_numpy()  # the margin: larger is more wrong
    keys = ["model", "epsilon", "video_id", "frame_index", *(["track"] if "track" in predictions.column_names else [])]
    ranked = predictions.append_column("loss", pa.array(loss)).sort_by(
        [(key, "ascending") for key in keys] + [("loss", "descending"), ("attack", "ascending")]
    )
    columns = [ranked.column(key).to_numpy(zero_copy_only=False) for key in keys]
    first = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    starts = np.concatenate([[True], first])
    worst = ranked.drop_columns("loss").filter(pa.array(starts))
    if "attacked" in worst.column_names:  # by every attack
        by_all = np.logical_and.reduceat(ranked.column("attacked").to_numpy(), np.flatnonzero(starts))
        worst = worst.set_column(worst.schema.get_field_index("attacked"), "attacked", pa.array(by_all))
    place = worst.schema.get_field_index("attack")
    worst = worst.set_column(place, "attack", pa.array([WORST] * len(worst), predictions.schema.field("attack").type))
    return pa.concat_tables([predictions, worst.cast(predictions.schema)])


def label_of_worst(labels: list[str]) -> str:
    """As people write it: "the worst of FGSM, PGD-20"."""
    return f"the worst of {', '.join(labels)}"
