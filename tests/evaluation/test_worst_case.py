import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from robust.evaluation.predictions import check_predictions, frame_scores
from robust.evaluation.worst_case import WORST, with_worst_case
from tests.evaluation.made_up import made_up_predictions


@pytest.fixture(scope="module")
def predictions():
    """Each attack goes further on some of the crops."""
    table = made_up_predictions(identities=6, frames=2)
    shift = np.random.default_rng(1).normal(0, 8, len(table)).astype(np.float32)
    adversarial = pc.add(table.column("adversarial"), pa.array(shift))
    return table.set_column(table.schema.get_field_index("adversarial"), "adversarial", adversarial)


def test_each_crop_has_the_attack_that_went_furthest(predictions):
    table = check_predictions(with_worst_case(predictions))
    for model in ("baseline", "defended"):
        for epsilon in (0.5, 8.0):
            one, other, worst = (frame_scores(table, model, attack, epsilon) for attack in ("fgsm", "pgd", WORST))
            assert (worst.video_ids == one.video_ids).all() and len(worst) == len(one)
            logits = np.stack([one.adversarial, other.adversarial])
            expected = np.where(one.labels == 1, logits.min(axis=0), logits.max(axis=0))
            assert (worst.adversarial == expected).all()
            if epsilon == 0.5:  # neither attack is the worst everywhere
                assert 0 < (worst.adversarial == one.adversarial).mean() < 1


def test_rows_of_the_attacks_stay_as_they_are(predictions):
    table = with_worst_case(predictions)
    assert table.slice(0, len(predictions)).equals(predictions)
    assert len(table) == len(predictions) * 3 // 2


def test_one_attack_is_its_own_worst_case(predictions):
    alone = predictions.filter(pc.field("attack") == "pgd")
    assert with_worst_case(alone) is alone
