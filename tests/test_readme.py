"""The README's example runs as printed, and its table names the scripts that exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    import jax

    with jax.numpy_dtype_promotion("standard"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    clean, robust = map(float, re.findall(r"[\d.]+", capsys.readouterr().out)[-2:])
    assert 0 <= robust <= clean <= 1 and clean > 0.8


def test_table_names_every_experiment():
    scripts = {
        f"{path.parent.name}.{path.stem}"
        for path in (ROOT / "experiments").rglob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    table = README.split("## Experiments")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+\.\w+)` \|", table, re.M)) == scripts
