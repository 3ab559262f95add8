"""The theory: adversarially trained linear regression on Gaussian features, core and spurious, without sampling.

```
gaussian     the model of features and target, and its shifted test domain
closed_form  the adversarial risk and the inner maximum, as functions of JAX
minimiser    the predictor of least adversarial risk and its thresholds, in float64 on the host
box          the active-set step of the minimiser
pair         one core and one spurious feature: everything in closed form
measures     how much a predictor relies on spurious features, as functions of JAX
theorems     when training relies on them, what that costs under shift, what it brings without
sampled      the same by drawing data and training against PGD
```

In short, with float32 in JAX unless `jax.enable_x64(True)` says otherwise:

    model = pair.pair(b=2.0, rho=0.8, sigma=0.5)
    best = minimiser.minimise(model, eps=0.5, kind="linf")
    slope = jax.grad(closed_form.adversarial_risk, argnums=1)(model, best.theta, 0.5, "linf")
    theorems.relies(model, 0.5, "linf").relies, measures.measures(model, best.theta).variance_share

Reference: the setting of Moayeri, Banihashem and Feizi 2022, arXiv:2209.07592; all formulas are derived here anew.
"""
