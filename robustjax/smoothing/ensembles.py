"""Several networks as one classifier, which changes its mind under noise less than each of them."""

import jax

from robustjax.types import Inputs, LogitsFn, Model, Outputs, Params, State, frozen


def ensemble(*logits_fns: LogitsFn) -> LogitsFn:
    """Average the logits of several classifiers.

    Raises:
      ValueError: if none is given.

    Reference: Horvath et al. 2022, arXiv:2106.06946: the logits' variance falls, and with it that of the margin.
    """
    if not logits_fns:
        raise ValueError("ensemble: no classifier given, must be at least 1")
    for other in logits_fns:
        if not callable(other):
            raise ValueError(
                f"ensemble: {type(other).__name__} given, must be functions from images to logits"
            )

    def logits_fn(x: Inputs) -> Outputs:
        logits = [logits_fn(x) for logits_fn in logits_fns]
        if len(shapes := {one.shape for one in logits}) > 1:
            raise ValueError(
                f"ensemble: the classifiers give {sorted(shapes)}, must give logits of one shape"
            )
        return sum(logits[1:], logits[0]) / len(logits)

    return logits_fn


def stacked(model: Model, params: Params, state: State) -> LogitsFn:
    """Average the logits of networks of one kind whose parameters lead with an axis over the networks."""

    def logits_fn(x: Inputs) -> Outputs:
        return jax.vmap(lambda p, s: frozen(model, p, s)(x))(params, state).mean(axis=0)

    return logits_fn
