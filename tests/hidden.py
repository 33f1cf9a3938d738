"""What x_t hides, in closed form: of a Gaussian mixture, the law of y = s x1 - c x0 given x_t is a
mixture again.
"""

import torch

from steer.analytic import GaussianMixture
from steer.flow_map import FlowMap
from steer.interpolant import Linear, batch_time
from steer.lookahead.glass_flow import Context, turn


def hidden_law(law, x, t, cond=None, steps=64):
    """The law of y given one point x (1, d), on the path Linear()."""
    posterior, noise, _ = law._posterior(x, t, cond)
    c, s, h = turn(law.schedule, batch_time(t, x))
    means = s * law._back(posterior.mean)[0] - c * law._back(noise)[0]
    std = law.std * h / torch.sqrt((c * h * law.std) ** 2 + (s * h) ** 2)
    weights = posterior.log_w[0].exp()
    kept = weights > 1e-300
    axes = None if law.axes is None else law.axes[kept]
    return GaussianMixture(means[kept], std[kept], weights[kept], axes=axes, steps=steps)


class ExactInner(FlowMap):
    """The flow map of y given x_t, a row at a time."""

    schedule = Linear()
    jumps_follow_velocity = True

    def __init__(self, law, steps=64):
        super().__init__()
        self.law, self.steps = law, steps

    def forward(self, x, s, t, cond=None):
        s, t = batch_time(s, x), batch_time(t, x)
        return self.by_row(cond, lambda law, i: law(x[i], s[i], t[i]))

    def velocity(self, x, t, cond=None):
        t = batch_time(t, x)
        return self.by_row(cond, lambda law, i: law.velocity(x[i], t[i]))

    def by_row(self, cond, ask):
        """One law for every row, or one for all where the rows are alike."""
        context = Context.of(cond)
        assert context.schedule == self.law.schedule
        rows = [slice(i, i + 1) for i in range(len(context))]
        if (
            context.cond is None
            and (context.x_t == context.x_t[0]).all()
            and (context.t == context.t[0]).all()
        ):
            rows = [slice(None)]
        laws = [
            hidden_law(self.law, p.x_t[:1], p.t[:1], p.cond, self.steps)
            for p in (context[i] for i in rows)
        ]
        return torch.cat([ask(law, i) for law, i in zip(laws, rows, strict=True)])
