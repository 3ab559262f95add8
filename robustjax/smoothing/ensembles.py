"""Several networks as one classifier, which changes its mind under noise less than each of them."""

import jax

from robustjax.types import Images, Logits, LogitsFn, Model, Params, State, frozen


def ensemble(*logits_fns: LogitsFn) -> LogitsFn:
    """Average the logits of several classifiers.

    Raises:
      ValueError: if none is given.

    Reference: Horvath et al. 2022, arXiv:2106.06946: the logits' variance falls, and with it that of the margin.
    """
    if not logits_fns:
        raise ValueError("ensemble: no classifier given, must be at least 1")

    def logits_fn(x: Images) -> Logits:
        total = logits_fns[0](x)
        for other in logits_fns[1:]:
            total = total + other(x)
        return total / len(logits_fns)

    return logits_fn


def stacked(model: Model, params: Params, state: State) -> LogitsFn:
    """Average the logits of networks of one kind whose parameters lead with an axis over the networks."""

    def logits_fn(x: Images) -> Logits:
        return jax.vmap(lambda p, s: frozen(model, p, s)(x))(params, state).mean(axis=0)

    return logits_fn
