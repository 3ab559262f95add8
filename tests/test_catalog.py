"""Names: of a table, or the user's own as module:name; anything else is refused in one line that helps."""

import pytest

from robustjax.catalog.names import named

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
