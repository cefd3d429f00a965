import pytest

from fluxcore.sharpness import Sharpness, SharpnessKind


def test_a_name_becomes_a_kind():
    assert Sharpness("top_k_mass", 0.1, k=4).kind is SharpnessKind.TOP_K_MASS
    assert Sharpness(SharpnessKind.NEG_ENTROPY, coef=-1).k is None


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`kind` must be one of non_max_sum, neg_entropy, neg_max_prob, top_k_mass, got 'entropy'", ("entropy", 1.0)),
        ("`coef` must be finite, got nan", ("neg_entropy", float("nan"))),
        ("`k` must be >= 1 for the kind top_k_mass, got None", ("top_k_mass", 1.0)),
        ("`k` must be >= 1 for the kind top_k_mass, got 0", ("top_k_mass", 1.0, 0)),
        ("`k` is only of use for the kind top_k_mass, got 3 for neg_entropy", ("neg_entropy", 1.0, 3)),
    ],
)
def test_bad_input_is_named(message, arguments):
    with pytest.raises(ValueError, match=message):
        Sharpness(*arguments)
