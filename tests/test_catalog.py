"""Names: of a table, or the user's own as module:name; anything else is refused in one line that helps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks import pgd
from robustjax.attacks.solver import own_merit
from robustjax.catalog import attacks, losses, models
from robustjax.catalog.names import built, named
from robustjax.losses.free import Free
from robustjax.models import small
from robustjax.numerics import keys_for
from robustjax.threats import Threat
from robustjax.types import Batch

TABLE = {"pgd": min, "apgd": max}


def test_a_name_is_an_entry_or_an_import(tmp_path, monkeypatch):
    assert named(TABLE, "pgd", flag="--attack") is min
    (tmp_path / "mine_for_names.py").write_text("def attack(): return 7\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    assert named(TABLE, "mine_for_names:attack", flag="--attack")() == 7


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("agpd", r"--attack is 'agpd', must be one of pgd, apgd, or module:name \(did you mean apgd\?\)"),
        ("json:nothing", "--attack is 'json:nothing', which cannot be imported"),
        ("no_such_module_here:f", "which cannot be imported"),
        ("math:pi", "a float, must be a function"),
        (":f", "must be package.module:name"),
    ],
)
def test_what_cannot_be_found_is_refused(name, says):
    with pytest.raises(ValueError, match=says) as caught:
        named(TABLE, name, flag="--attack")
    assert "\n" not in str(caught.value)


def test_a_factory_gets_what_it_asks_for():
    def factory(model, eps, steps=3):
        return model, eps, steps

    offered = {"model": "m", "eps": 0.1, "seed": 7}
    assert built(factory, offered, flag="--loss") == ("m", 0.1, 3)
    with pytest.raises(ValueError, match="--loss: the function needs 'eps', may ask for model, seed"):
        built(factory, {"model": "m", "seed": 7}, flag="--loss")


MINE = """
import jax

from robustjax import logit
from robustjax.models import from_flax
from robustjax.models.small import MLP
from robustjax.types import frozen

def my_loss(model, attack):
    def loss(params, state, batch, key):
        inner, _ = jax.random.split(key)  # as the library's losses do
        x = attack(inner, frozen(model, params, state), batch.image, batch.label).x
        logits, state = model.apply(params, state, x, train=True)
        return logit.cross_entropy(logits, batch.label).mean(), (state, {})
    return loss

def my_model(classes, shape, mean, std):
    return from_flax(MLP(classes, (8,)), shape=shape, mean=mean, std=std)

def no_model(classes):
    return classes
"""


@pytest.mark.slow
def test_a_loss_and_a_model_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "mine_of_the_user.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    like = {"dataset": "digits", "classes": 10, "shape": (8, 8, 1)}
    model = models.classifier("mine_of_the_user:my_model", **like)
    params, state = model.init(jax.random.key(0))
    batch = Batch(jnp.full((4, 8, 8, 1), 0.5), jnp.arange(4, dtype=jnp.int32))
    threat = Threat("linf", 0.1)
    given = {"threat": threat, "ascent": pgd(threat, steps=1, step_size=0.05)}
    values = [
        losses.training_loss(name, model, **given)(params, state, batch, jax.random.key(1))[0]
        for name in ("mine_of_the_user:my_loss", "adversarial", "standard")
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
    assert values[0] > values[2]
    assert losses.takes("adversarial", "smoothing") and not losses.takes(
        "mine_of_the_user:my_loss", "smoothing"
    )
    with pytest.raises(ValueError, match=r"--awp is 0.1, must be 0 with --loss mine_of_the_user:my_loss"):
        losses.training_loss("mine_of_the_user:my_loss", model, **given, awp=0.1)
    with pytest.raises(ValueError, match=r"gives a int, must give a types.Model"):
        models.classifier("mine_of_the_user:no_model", **like)
    with pytest.raises(ValueError, match="--remat is set, must not be with --model"):
        models.classifier("mine_of_the_user:my_model", **like, remat=True)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_can_be_named(name):
    model = small.mlp(shape=(8, 8, 1), widths=(8,))
    params, state = model.init(jax.random.key(0))
    if name == "free":
        params = Free(params, jnp.zeros((4, 8, 8, 1)))
    batch = Batch(jnp.full((4, 8, 8, 1), 0.5), jnp.arange(4, dtype=jnp.int32))
    threat = Threat("linf", 0.1)
    loss = losses.training_loss(name, model, threat=threat, ascent=pgd(threat, steps=1, step_size=0.05))
    value, _ = jax.jit(lambda *args: loss(*args))(params, state, batch, jax.random.key(1))
    assert np.isfinite(value)


MY_ATTACKS = """
import jax
import jax.numpy as jnp
from robustjax.attacks.solver import better
from robustjax.numerics import fold
from robustjax.types import Found

def sign(threat):  # FGSM: exact where the objective is linear
    def search(key, objective, x):
        z = threat.project(x + threat.eps * jnp.sign(jax.grad(lambda z: objective(z).sum())(x)), x)
        return Found(z, objective(z))
    return search

def random_points(threat):
    def search(key, objective, x):
        def once(i, best):
            z = threat.sample(fold(key, i), x)
            return better(best, Found(z, objective(z)))
        return jax.lax.fori_loop(0, 5, once, Found(x, objective(x)))
    return search

def far(threat):  # leaves the ball, and the box
    return lambda key, objective, x: Found(x + 2, objective(x + 2))

def one_key(threat):
    return lambda key, objective, x: Found(x + jax.random.normal(key, x.shape), objective(x))

def points(threat):
    return lambda key, objective, x: x

def fewer(threat):
    return lambda key, objective, x: Found(x[0], objective(x))

def nothing(threat):
    return 3
"""


def test_an_attack_of_the_users_is_an_ascent(tmp_path, monkeypatch):
    """On a linear objective w x the sign attack gains eps |w|_1, and random points gain less."""
    (tmp_path / "my_attacks.py").write_text(MY_ATTACKS)
    monkeypatch.chdir(tmp_path)
    threat, settings = Threat("linf", 0.1), attacks.AttackSettings(restarts=3)
    case = attacks.attack("my_attacks:sign", threat, 10, settings)
    assert (case.name, case.runs) == ("sign", 3)
    w = jnp.linspace(-1.0, 2.0, 16).reshape(1, 4, 4, 1)
    x = jnp.full((3, 4, 4, 1), 0.5)

    def objective(x):
        return (x * w).sum(axis=(1, 2, 3))

    found = jax.jit(lambda key, x: case.solver(key, objective, x))(jax.random.key(0), x)
    np.testing.assert_allclose(found.value, objective(x) + 0.1 * jnp.abs(w).sum(), rtol=1e-5)
    solver = attacks.attack("my_attacks:random_points", threat, 10, settings).solver
    some = solver(jax.random.key(0), objective, x)
    assert (some.value > objective(x)).all() and (some.value < found.value).all()
    keys = keys_for(jax.random.key(0), 3)
    np.testing.assert_array_equal(solver(keys[2:], objective, x[2:]).x, some.x[2:])  # whatever the batch
    # More iterations than there are change nothing.
    state = solver.advance(own_merit(objective), solver.init(keys, x), 7)
    np.testing.assert_array_equal(solver.finish(state).x, some.x)
    with pytest.raises(ValueError, match=r"my_attacks:nothing gives int, must give \(key, objective, x\)"):
        attacks.attack("my_attacks:nothing", threat, 10, settings)


def test_an_attack_of_the_users_is_held_to_the_threat_and_told_how_it_is_called(tmp_path, monkeypatch):
    """All of w is positive, so that the farthest corner of the ball is x + eps."""
    (tmp_path / "my_attacks_2.py").write_text(MY_ATTACKS)
    monkeypatch.chdir(tmp_path)
    key, x = jax.random.key(0), jnp.full((3, 4, 4, 1), 0.5)

    def found(name):
        case = attacks.attack(f"my_attacks_2:{name}", Threat("linf", 0.1), 10, attacks.AttackSettings())
        return case.solver(key, lambda x: x.sum(axis=(1, 2, 3)), x)

    np.testing.assert_allclose(found("far").x, 0.6, rtol=1e-6)
    np.testing.assert_allclose(found("far").value, 16 * 0.6, rtol=1e-6)
    for name, says in (
        (
            "one_key",
            r"--attacks: my_attacks_2:one_key fails: .*; it is called .* a key for each, of shape \(3,\)",
        ),
        (
            "points",
            r"my_attacks_2:points returns [A-Za-z]+ for images of .*, must return types.Found\(x, value\)",
        ),
        (
            "fewer",
            r"my_attacks_2:fewer returns points of shape \(4, 4, 1\) for images of shape \(3, 4, 4, 1\)",
        ),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            found(name)
        assert "\n" not in str(caught.value)
