import pytest

from fluxcore.report.sharpness import Setting, cost, rows, verdict


def setting(penalty, weight, losses):
    return Setting(
        penalty,
        weight,
        {
            seed: {"cross_entropy": loss, "entropy": 2.0, "max_prob": 0.5, "calibration_error": 0.1, "accuracy": 0.4}
            for seed, loss in enumerate(losses)
        },
    )


SETTINGS = [
    setting("none", 0.0, [4.0, 5.0, 6.0]),
    setting("neg_entropy", 0.1, [4.1, 5.11, 6.09]),
    setting("neg_entropy", 0.01, [3.9, 5.1, 6.0]),
    setting("top_k_mass", 0.1, [3.9, 4.89, 5.9]),
]


def test_the_cost_is_paired_by_seed():
    assert cost(SETTINGS[1], SETTINGS[0]).mean == pytest.approx(0.1)
    assert cost(SETTINGS[1], SETTINGS[0]).excludes_zero
    assert not cost(SETTINGS[2], SETTINGS[0]).excludes_zero


def test_the_verdict_names_what_is_known():
    assert verdict(SETTINGS) == (
        "Paired by seed, the validation cross entropy is higher than the baseline's 5.0000 nats a token, beyond a 95%"
        " interval, for: neg_entropy at 0.1 (+0.1000); lower for: top_k_mass at 0.1 (-0.1033); and of 1 of the 3"
        " settings the sign of the difference is not known."
    )


def test_one_seed_is_no_answer():
    assert "Two seeds or more" in verdict([setting("none", 0.0, [4.0]), setting("neg_entropy", 0.1, [5.0])])
    assert "Two seeds or more" in verdict(SETTINGS[1:])


def test_the_table_has_a_line_a_setting():
    cells = rows(SETTINGS)
    assert [line[:3] for line in cells] == [
        ["none", "0", 3],
        ["neg_entropy", "0.1", 3],
        ["neg_entropy", "0.01", 3],
        ["top_k_mass", "0.1", 3],
    ]
    assert cells[0][4] == "–"
