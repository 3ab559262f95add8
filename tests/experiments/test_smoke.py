"""Every script runs from the command line and leaves what it promises."""

import json

import pytest
import scripts

SMOKE = {
    "classification.quickstart": (["smoke"], ["report.html"]),
    "classification.attack": (
        ["smoke"],
        ["report.html", "results.json", "results.npz", "figures/curve.png"],
    ),
}


def test_training_leaves_a_whole_run_folder(trained):
    assert {p.name for p in trained.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "report.html",
    }
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert any("valid_robust" in line for line in lines)
    assert {p.name for p in (trained / "figures").iterdir()} == {"attacked.png", "training.png"}
    made = json.loads((trained / "config.json").read_text())
    assert made["config"]["loss"] == "adversarial" and "jax" in made["starts"][0]["versions"]
    page = (trained / "report.html").read_text()
    assert (
        "data:image/png;base64" in page and "http" not in page.split("</style>")[1].split("Configuration")[0]
    )


@pytest.mark.parametrize("script", SMOKE)
def test_other_scripts(script, trained, tmp_path):
    words, files = SMOKE[script]
    extra = ["--source.run", trained] if script == "classification.attack" else []
    done = scripts.run(script, *words, *extra, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 100 for name in files)


def test_options_together(tmp_path):
    words = [
        "--updates",
        4,
        "--validate-every",
        4,
        "--images",
        16,
        "--ema",
        "--tensorboard",
        "--dtype",
        "bfloat16",
    ]
    out = tmp_path / "run"
    done = scripts.run(
        "classification.train", "smoke", "--out", out, *words, "--loss", "free", "--replays", 2
    )
    assert done.returncode == 0, done.stderr
    assert list((out / "tensorboard").glob("events*"))
    done = scripts.run("classification.attack", "smoke", "--source.run", out)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script",
    ["classification.train", "classification.attack", "benchmarks.attack", "classification.quickstart"],
)
def test_help_teaches(script, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, script, "--help")
    assert done.returncode == 0
    assert "smoke" in done.stdout and "python -m experiments." in done.stdout
