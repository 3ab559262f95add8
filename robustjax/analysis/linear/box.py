"""The point of a box nearest to another in a quadratic metric: the exact step of the solver."""

import numpy as np


def nearest(metric: np.ndarray, centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Minimise (x - centre)' metric (x - centre) over |x_j| <= radius, by an active-set method.

    It ends after finitely many linear solves on the features inside the box, with the answer to rounding.

    Args:
      metric: symmetric positive definite, (m, m), float64.
      centre: (m,).
      radius: at least 0, the same for all features.

    Returns:
      x (m,), and the side (m,) of the box that each feature rests on: -1, 1, or 0 for those inside.

    Raises:
      ArithmeticError: if the active set does not settle, which means that the metric is all but singular.

    Reference: Stark and Parker 1995, Computational Statistics 10 (bounded-variable least squares), with all
      features free or clipped at the start.
    """
    x = np.clip(centre, -radius, radius)
    side = np.sign(centre) * (np.abs(centre) > radius)
    slack = 1e-14 * np.abs(metric).sum(axis=1) * (np.abs(centre).max() + radius)
    for _ in range(50 * len(centre) + 50):
        free = side == 0
        held = ~free
        if free.any():
            push = metric[np.ix_(free, held)] @ (x - centre)[held]
            step = (centre - x)[free] - np.linalg.solve(metric[np.ix_(free, free)], push)
            room = np.where(step == 0, np.inf, np.sign(step) * radius - x[free])
            share = np.divide(room, step, out=np.full_like(step, np.inf), where=step != 0)
            first = int(share.argmin())
            x[free] += min(1.0, share[first]) * step
            if share[first] < 1:
                stopped = np.flatnonzero(free)[first]
                side[stopped] = np.sign(step[first])
                x[stopped] = side[stopped] * radius
                continue
        pull = metric @ (centre - x)
        wrong = np.where(held, -side * pull - slack, -np.inf)
        if wrong.max() <= 0:
            return x, side
        side[wrong.argmax()] = 0
    raise ArithmeticError("nearest: the active set does not settle, the metric must be well conditioned")
