"""Suggestions for misspelt names."""

from steer.nearest import nearest, suggestion


def test_the_most_similar_name_whatever_the_case():
    assert nearest("jmup", ["Jump", "Ode", "Sde"]) == "Jump"
    assert nearest("MLP", ["mlp", "Mlp", "UNet"]) == "Mlp"
    assert nearest(3, ["steps"]) is None
    assert nearest("x", ["steps"], cutoff=0.0) == "steps"
    assert nearest("x", []) is None


def test_a_suggestion_ends_a_message():
    assert suggestion("scal", ["scale"], prefix="tilt.") == "; did you mean 'tilt.scale'?"
    assert suggestion("quite other", ["scale"]) == ""
