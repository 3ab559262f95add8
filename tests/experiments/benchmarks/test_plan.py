"""A plan's numbers are what one counts by hand from a program's text and a chip's peaks, and its input is checked."""

import dataclasses
import importlib
import math
from importlib.util import find_spec

import jax
import pytest

from experiments.benchmarks import chips, compiling, hlo_text, plan
from experiments.benchmarks.compiling import Compiled
from experiments.benchmarks.time_bounds import bound
from robustjax import runtime

# Two products of 2 * 1000^3 operations on 3 matrices of 4 MB, and one of them again in a fusion with its like.
TEXT = """HloModule one, is_scheduled=true

%two (a: f32[1000,1000], b: f32[1000,1000]) -> f32[1000,1000] {
  %a = f32[1000,1000]{1,0} parameter(0)
  %b = f32[1000,1000]{1,0} parameter(1)
  %c = f32[1000,1000]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %d = f32[1000,1000]{1,0} dot(%c, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[1000,1000], y: f32[1000,1000]) -> f32[1000,1000] {
  %x = f32[1000,1000]{1,0} parameter(0)
  %y = f32[1000,1000]{1,0} parameter(1)
  %copy.1 = f32[1000,1000]{0,1} copy(%x)
  %z = f32[1000,1000]{1,0} dot(%copy.1, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}
  %w = f32[1000,1000]{1,0} fusion(%z, %y), kind=kOutput, calls=%two
  ROOT %all = f32[4000,1000]{1,0} all-gather(%w), replica_groups=[1,4]<=[4], dimensions={0}
}
"""  # noqa: E501
MEMORY = {"arguments": 8e6, "outputs": 4e6, "aliased": 4e6, "temporaries": 16e6, "code": 0.0}


def made(text=TEXT, memory=MEMORY, asked=TEXT):
    return Compiled("step", 64, 100, text, asked, memory, 1.0)


def slow(**changes):
    """A chip of round numbers: a product takes 2 ms, 4 MB take 1 ms."""
    chip = chips.Chip("tpu", 1e12, 4e9, 1e9, 1e6, "by hand")
    return chips.Topology("v5e", chip._replace(**changes), (2, 2))


def test_the_bound_is_the_larger_of_arithmetic_and_bytes_of_each_operation():
    found = bound(made(), slow())
    # Copy: 2 MB each way of 4; product: 3 matrices; two products: 3 matrices; all-gather: 1 in, 4 out.
    assert found.seconds == pytest.approx(1e-3 * (2 + max(2, 3) + max(4, 3) + 5))
    assert math.isnan(found.by_compiler)
    assert found.flops == 6e9
    assert found.share == pytest.approx(6e-3 / 14e-3)
    assert found.peak == 24e6
    assert found.largest == int(64 * (1e9 - 8e6) / 16e6)
    limits = {row.limit for row in found.rows}
    assert limits <= {"arithmetic", "memory"} and sum(row.seconds for row in found.rows) == pytest.approx(
        14e-3
    )


def test_the_compilers_cycles_count_where_they_say_more():
    text = TEXT.replace("calls=%two", 'calls=%two, backend_config={"estimated_cycles":"20000"}')
    found = bound(made(text), slow())
    assert found.by_compiler == pytest.approx(20e-3)
    assert found.least == pytest.approx(20e-3)
    assert found.rows[0].limit == "compiler"


def test_warnings_say_what_to_look_at():
    rounded, nested, copied, gathered = bound(made(), slow()).warnings
    assert nested.startswith("29 % of the time")  # 4 of 14 ms
    assert rounded.startswith("67 % of the arithmetic")  # two of three products; the first asks for all bits
    assert copied.startswith("14 % of the time")
    assert gathered.startswith("all-gather of 4.0 MB f32")
    hidden = TEXT.replace(
        "fusion(%z, %y), kind=kOutput, calls=%two", 'custom-call(%z, %y), custom_call_target="a"'
    )
    one = slow()._replace(sides=(1, 1))
    assert bound(made(hidden), one).warnings[0].startswith("only 33 % of the arithmetic asked for is seen")
    assert bound(made(), slow(memory=20e6)).warnings[0].startswith("does not fit")


def test_a_line_of_the_plan():
    where = slow()
    line = plan.row(where, made(), bound(made(), where))
    assert line["images/s at most"] == pytest.approx(64 / 14e-3)
    assert line["hours at least"] == pytest.approx(100 * 14e-3 / 3600)
    assert line["chip-hours at least"] == pytest.approx(4 * 100 * 14e-3 / 3600)
    assert line["exchanged MB"] == 4.0


def test_the_table_of_a_folder():
    where = slow()
    exchanges = [{"kind": "all-reduce", "dtype": "f32", "bytes": 45e6, "calls": 1}]
    line = plan.row(where, made(), bound(made(), where)) | {
        "script": "classification.train", "config": {"model": "resnet18", "dtype": "bfloat16"}, "exchanges": exchanges,
    }  # fmt: skip
    head, rule, row = plan.markdown([line]).splitlines()
    assert row == "| resnet18 bfloat16 | step | v5e:2x2 | 64 | 14.0 | - | 4,571 | 43 % | 0.02 | 45.0 f32 |"
    assert head.count("|") == rule.count("|") == row.count("|")


AUTOATTACK = ("source.checkpoint=none.pt", "source.architecture=convnet_small", "source.dataset=cifar10")


def of(script, preset, *settings, batch_size=512, shape=(32, 32, 3), devices=4):
    """What a script plans for the devices that are here."""
    cfg = plan.script_config(plan.Config(script, preset, batch_size=batch_size, settings=settings))
    mesh = runtime.data_mesh(jax.devices()[:devices])
    return importlib.import_module(f"experiments.{script}").planned(cfg, mesh, shape=shape, classes=10)


def test_autoattack_is_planned_attack_by_attack():
    """10,000 images are 20 batches: 100 iterations at 1 target and at 9, 5,000 queries, each after a first look."""
    found = of("classification.attack", "standard", *AUTOATTACK, "images=None", "eps=8/255", "out=x")
    assert [one.name.partition(",")[0] for one in found] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [one.calls for one in found] == [20 * 11, 20 * 9 * 11, 20 * 9 * 10, 20 * 501]
    assert {one.images for one in found} == {512}
    few = of("classification.attack", "standard", *AUTOATTACK, "eps=8/255", "out=x", batch_size=510)
    assert few[0].calls == 2 * 11 and few[0].images == 512  # 1,000 images; rows divide over 4 devices
    with pytest.raises(ValueError, match=r"source.architecture is missing"):
        of("classification.attack", "standard", AUTOATTACK[0], AUTOATTACK[2], "eps=8/255", "out=x")


@pytest.mark.slow
def test_a_segment_makes_its_iterations():
    """Ten times a forward and a backward pass for the input, three times the operations of a forward one."""
    found = of("classification.attack", "standard", *AUTOATTACK, "eps=8/255", "out=x", batch_size=32)
    text = found[0].trace().lower().compile().as_text()
    program = hlo_text.Program(text)
    costs = program.costs()
    assert not program.unknown_trips
    # Per image: 4x4 kernels with stride 2, 3 to 16 channels at 16 x 16 and 16 to 32 at 8 x 8, then 2048 to 100 to 10.
    forward = 2 * (16 * 16 * 16 * 48 + 8 * 8 * 32 * 256 + 2048 * 100 + 100 * 10)
    assert sum(cost.flops for cost in costs) == pytest.approx(10 * 2 * forward * 32 / 4, rel=0.12)


@pytest.mark.parametrize(
    ("script", "preset", "settings", "images", "calls"),
    [
        ("classification.train", "cifar10", ("updates=7",), 512, 7),
        ("classification.speedrun", "cifar10", (), 87 * 512, 15),  # 45,000 of 50,000 images
        ("ood_detection.train", "cifar10_aloe", ("updates=9", "ood-batch-size=100"), 612, 9),
        ("perturbation_sets.train", "cifar10", ("epochs=2",), 512, 2 * 87),
        ("perturbation_sets.train_classifier", "cifar10_cvae_attack", ("epochs=2",), 512, 2 * 87),
        ("perturbation_sets.train_classifier", "mi_cvae_attack", ("epochs=3",), 512, 3 * 1),  # 960 scenes
    ],
)
def test_trainings_are_planned(script, preset, settings, images, calls):
    (one,) = of(script, preset, *settings)
    assert (one.images, one.calls) == (images, calls)


def test_a_comparison_is_planned_method_by_method():
    """Two networks of each method, beside the one that evaluates counterfactuals; ID and OOD images count."""
    settings = ("methods=plain,ratio", "seeds=2", "updates=5")
    found = of("ratio.compare", "mnist", *settings, batch_size=64, shape=(28, 28, 1), devices=1)
    assert [one.name.partition(":")[0] for one in found] == ["evaluation network", "plain", "RATIO"]
    assert [(one.images, one.calls) for one in found] == [(128, 5), (128, 10), (128, 10)]


def test_a_translation_system_is_planned_network_by_network():
    """54,000 images of MNIST, clean and under two attacks at two radii: five pairs of each of the first 8,000."""
    found = of("ood_to_id.train", "mnist_small", batch_size=None, shape=(28, 28, 1), devices=1)
    assert [one.name for one in found] == ["classifier: update", "encoder: update", "translator: update"]
    assert [(one.images, one.calls) for one in found] == [
        (64, 6 * (54_000 // 64)),
        (200, 8 * (20_000 // 200)),
        (64, 2 * (5 * 8000 // 64)),
    ]
    # A given classifier is not trained, and SPSA makes pairs of a twentieth of the images.
    settings = ("classifier=net.pt", "recipe.attacks=fgsm,spsa", "recipe.refresh=0", "images=2000")
    found = of("ood_to_id.train", "mnist_small", *settings, batch_size=None, shape=(28, 28, 1), devices=1)
    assert [one.calls for one in found] == [8 * (2000 // 200), 2 * ((2000 * 3 + 100 * 2) // 64)]


@pytest.mark.parametrize("script", ["ratio.compare", "ood_to_id.train"])
def test_what_trains_on_one_device_is_planned_for_one(script):
    with pytest.raises(ValueError, match="trains on one device"):
        of(script, "mnist", batch_size=None, shape=(28, 28, 1))


def test_sets_that_are_not_learned_yet_are_known_by_their_folders():
    with pytest.raises(ValueError, match="must be cvae_PRESET"):
        of("perturbation_sets.train_classifier", "cifar10_cvae_aug", "set=runs/mine")
    with pytest.raises(ValueError, match="radius is missing"):
        of("perturbation_sets.train_classifier", "digits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "preset", "settings"),
    [
        ("classification.speedrun", "smoke", ("dataset=mnist",)),
        ("ood_detection.train", "smoke", ()),
        ("perturbation_sets.train", "smoke", ("dataset=mnist", "pairs=linf", "model=mnist_dense")),
    ],
)
def test_planned_programs_trace(script, preset, settings):
    (one,) = of(script, preset, *settings, batch_size=32, shape=(28, 28, 1))
    with jax.numpy_dtype_promotion("standard"):  # as scripts run
        assert one.trace().lower().as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "settings", "shape"),
    [
        ("ratio.compare", ("methods=ratio",), (8, 8, 1)),
        ("ood_to_id.train", ("kind=atop",), (8, 8, 1)),
        ("ood_to_id.train", ("kind=ddpm",), (8, 8, 1)),
        (
            "perturbation_sets.train_classifier",
            ("set=runs/cvae_mnist_dense_linf", "batch_size=8"),
            (28, 28, 1),
        ),
        (
            "perturbation_sets.train_classifier",
            ("set=runs/cvae_mip5", "model=unet_small", "batch_size=2"),
            (125, 187, 3),
        ),
    ],
)
def test_programs_of_one_device_trace(script, settings, shape):
    found = of(script, "smoke", *settings, batch_size=None, shape=shape, devices=1)
    with jax.numpy_dtype_promotion("standard"):
        for one in found:
            assert one.trace().lower().as_text()


@pytest.mark.parametrize("text", ["v5e", "v9:1x1", "v5e:0x1", "v5e:1", "v5p:2x2", "h100:512", "v5e:2x4x"])
def test_other_topologies_are_refused(text):
    with pytest.raises(ValueError, match="--topology is"):
        chips.topology(text)


def test_topologies_count_chips():
    assert [chips.topology(text).chips for text in ("v5e:2x4", "v5p:2x2x1", "h200:8")] == [8, 4, 8]


def config(**changes):
    return dataclasses.replace(plan.Config("classification.train", "cifar10"), **changes)


def test_settings_are_those_of_the_script():
    found = plan.script_config(
        config(batch_size=512, settings=("dtype=bfloat16", "attack.steps=7", "remat=True"))
    )
    assert (found.batch_size, found.dtype, found.attack.steps, found.remat) == (512, "bfloat16", 7, True)
    assert plan.images(config(), found) == ((32, 32, 3), 10)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"script": "classification.nothing"}, r"script is .classification.nothing"),
        ({"script": "classification.merge_reports"}, r"must be one with .planned"),
        ({"preset": "cifar"}, "preset is 'cifar'"),
        ({"settings": ("remat",)}, "must be name=value"),
    ],
)
def test_wrong_input_ends_in_one_line(changes, match):
    with pytest.raises(ValueError, match=match):
        plan.script_config(config(**changes))


@pytest.mark.parametrize(
    ("script", "preset", "found"),
    [
        ("ratio.compare", "restricted_imagenet", ((224, 224, 3), 9)),
        ("ood_detection.train", "gtsrb_aloe", ((32, 32, 3), 43)),
        ("ood_to_id.train", "imagenet", ((224, 224, 3), 1000)),
        ("perturbation_sets.train", "mip3", ((500, 750, 3), 36)),
        ("perturbation_sets.train_classifier", "mi_sample_aug", ((125, 187, 3), 36)),
        ("perturbation_sets.train_classifier", "cifar10_cvae_aug", ((32, 32, 3), 10)),
    ],
)
def test_images_of_published_presets_are_known(script, preset, found):
    cfg = plan.Config(script, preset)
    assert plan.images(cfg, plan.script_config(cfg)) == found


def test_unknown_images_are_asked_for():
    settings = dataclasses.replace(plan.script_config(config()), dataset="mine")
    with pytest.raises(ValueError, match="--shape"):
        plan.images(config(), settings)
    assert plan.images(config(shape=(224, 224, 3), classes=7), settings) == ((224, 224, 3), 7)


@pytest.mark.slow
def test_a_chip_is_compiled_for_or_its_compiler_asked_for(tmp_path):
    cfg = config(preset="smoke", out=str(tmp_path))
    if find_spec("libtpu") is None:
        with pytest.raises(ValueError, match="pip install"):
            plan.main(cfg)
        return
    assert plan.main(cfg) == 0
    assert (tmp_path / "plan.html").exists() and len((tmp_path / "plan.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_line():
    job = compiling.Job("classification.nothing", None, "v5e:1x1", (8, 8, 1), 10, {})
    with pytest.raises(ValueError, match=r"pip install|ended with exit code"):
        compiling.compiled(job)
