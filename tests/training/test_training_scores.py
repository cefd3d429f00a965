import math

import pytest
import torch

from fluxcore import Sharpness
from fluxcore.training.classification_scores import confusion, macro_scores
from fluxcore.training.link_loss import LinkLoss, LossName
from fluxcore.training.target_entropy import target_entropy


def test_macro_scores_by_hand():
    # Class 0: 2 of 3 found, 1 false; class 1: 1 of 1 found, 1 false; class 2: never met; class 3: 0 of 1 found.
    targets = torch.tensor([0, 0, 0, 1, 3])
    predicted = torch.tensor([0, 0, 1, 1, 0])
    counts = confusion(predicted, targets, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    scores = macro_scores(counts)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_counts_of_batches_add_up():
    targets, predicted = torch.randint(5, (2, 40))
    parts = [confusion(predicted[part], targets[part], 5) for part in (slice(0, 17), slice(17, 40))]
    assert torch.equal(parts[0] + parts[1], confusion(predicted, targets, 5))


def test_a_class_that_is_predicted_and_never_right_counts():
    scores = macro_scores(confusion(torch.tensor([1, 1]), torch.tensor([1, 0]), 3))
    assert scores["recall"] == pytest.approx(0.5)
    assert scores["precision"] == pytest.approx(0.25)


def test_entropy_of_targets():
    assert float(target_entropy(torch.arange(8).repeat(3), 8)) == pytest.approx(math.log(8))
    assert float(target_entropy(torch.tensor([2, 2, -100]), 4)) == 0.0
    assert float(target_entropy(torch.tensor([0, 0, 0, 1]), 2)) == pytest.approx(0.5623351446)
    assert float(target_entropy(torch.tensor([-100, -100]), 4)) == 0.0


@pytest.mark.parametrize("name", LossName)
def test_reductions_of_each_loss_agree_and_ignored_rows_are_zero(name):
    logits = torch.randn(9, 13, requires_grad=True)
    targets = torch.randint(13, (9,))
    targets[4] = -100
    rows = LinkLoss(name)(logits, targets, "none")
    assert rows[4] == 0
    torch.testing.assert_close(LinkLoss(name)(logits, targets), rows.sum())


def test_where_the_usual_loss_is_zero_the_residual_form_is_not():
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([0])
    usual, residual = (LinkLoss(name)(logits, target) for name in (LossName.softmax, LossName.residual))
    assert usual == 0
    assert residual.item() == pytest.approx(2 * math.exp(-40), rel=1e-6)
    assert torch.autograd.grad(usual, logits)[0][0, 0] == 0
    assert torch.autograd.grad(residual, logits)[0][0, 0] < 0


def test_a_penalty_is_added_to_the_residual_form_only():
    logits, targets = torch.randn(5, 7), torch.randint(7, (5,))
    penalty = Sharpness("non_max_sum", 0.5)
    plain, penalised = (LinkLoss(LossName.residual, p)(logits, targets) for p in (None, penalty))
    expected = 0.5 * (1 - logits.softmax(-1).amax(-1)).sum()
    torch.testing.assert_close(penalised - plain, expected)
    with pytest.raises(ValueError, match="`penalty` needs loss=residual, got loss=stablemax"):
        LinkLoss(LossName.stablemax, penalty)
