"""The meaning of the figures of a report, in a sentence each."""

import re

COUNTED = "Each sample counts; the table says whether per returned sample or in all."
MEANINGS = {
    "reward": (
        "The mean of what is steered or tuned by, unscaled, over prompts; of samples by weight."
    ),
    "reward, unweighted": "The mean of the reward over the particles, whatever their weights.",
    "held-out reward": (
        "The mean of a reward that nothing was steered or tuned by. If it falls while the reward"
        " rises, the reward is being fooled."
    ),
    "judge's accuracy": "How often the judging classifier sees the label that was asked for.",
    "diversity": (
        "The mean distance between two samples of a prompt, in the judge's features where there is"
        " a judge; 0 if all are alike."
    ),
    "frechet distance": (
        "The distance between the Gaussian fits of samples and reference in the judge's features;"
        " as good as it gets at the value of real data against real data."
    ),
    "log z": (
        "The logarithm of the mean of exp(scale x reward) over the base's samples, which exact"
        " methods estimate: how much of the base's law the tilt keeps."
    ),
    "effective sample size": (
        "(sum w)^2 / sum w^2: how many equally weighted particles the weights are worth; 1 means"
        " that one particle bears all the weight."
    ),
    "effective samples": (
        "(sum w)^2 / sum w^2: how many equally weighted particles the weights are worth."
    ),
    "resamplings": "How often the particles of a prompt were redrawn by their weights.",
    "network forward": f"Forward passes of the network. {COUNTED}",
    "network backward": f"Backward passes through the network. {COUNTED}",
    "reward forward": f"Evaluations of the reward. {COUNTED}",
    "reward backward": f"Backward passes through the reward. {COUNTED}",
    "thermodynamic length": (
        "The length of the path of tilted laws in the Fisher metric: long paths need many steps."
    ),
    "total discrepancy": "The sum over steps of the variance of the incremental log-weights.",
    "distance to the law": "The distance of the weighted samples to exact draws of the tilted law.",
    "log z error": "Estimated log Z less its closed form.",
    "distance to the base": (
        "The mean Euclidean distance between the samples of the tuned map and of its base from the"
        " same noise."
    ),
    "grid kl": "KL divergence to exact draws on a grid of cells.",
    "energy distance": (
        "2 E|x - y| - E|x - x'| - E|y - y'| of samples x and exact draws y; 0 if the laws agree."
    ),
    "spent": "Evaluations so far, in all.",
}
NAMES = sorted(MEANINGS, key=len, reverse=True)  # "held-out reward" before "reward"


def term(words: str) -> str | None:
    """The term of the glossary that a figure's name speaks of, the longest one; None if none."""
    plain = words.lower().replace("_", " ").replace("fréchet", "frechet")
    return next((name for name in NAMES if re.search(rf"\b{re.escape(name)}", plain)), None)


def meaning(words: str) -> str | None:
    """What a figure of this name means; None if it is not in the glossary."""
    name = term(words)
    return None if name is None else MEANINGS[name]
