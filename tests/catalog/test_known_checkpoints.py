"""RobustBench's table: names, constants and published numbers, and that a file is what its name says."""

import itertools
import re

import pytest

from robustjax.catalog import known_checkpoints
from robustjax.catalog.known_checkpoints import doubt, entries, known
from robustjax.data import preprocessing
from robustjax.models.architectures import architecture


def test_an_entry_as_published():
    """Gowal et al. 2021, table 1 of RobustBench's README: 87.50 % clean, 63.38 % robust."""
    entry = known("Gowal2021Improving_28_10_ddpm_100m")
    assert (entry.clean, entry.robust, entry.eps) == (87.50, 63.38, 8 / 255)
    assert (entry.architecture, entry.dataset, entry.threat) == ("gowal28_10", "cifar10", "linf")
    assert (entry.mean, entry.std) == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    assert known("Kireev2021Effectiveness_RLAT").eps is None
    assert known("Salman2020Do_R18").eps == 4 / 255
    assert known("Salman2020Do_R18").preprocessing == "Res256Crop224"
    assert known("imagenet2012/linf/Wong2020Fast").preprocessing == "Crop288"
    # timm's default settings of RobustBench's own classes: bicubic, crop 0.9 of 248 pixels
    assert known("Tian2022Deeper_DeiT-B").preprocessing == "BicubicRes248Crop224"
    assert entry.preprocessing is None
    assert known("cifar10/linf/Debenedetti2022Light_XCiT-L12").architecture == "xcit_l12_cifar"
    assert known("Rade2021Helper_R18_extra").architecture == "preact_resnet18_gowal"


def test_every_entry_makes_sense():
    every = entries()
    assert len(every) == 206
    assert len({entry.board for entry in every}) == 206
    assert sum(entry.architecture is not None for entry in every) == 204
    for entry in every:
        assert entry.dataset in ("cifar10", "cifar100", "imagenet2012")
        assert 0 <= entry.robust <= 100
        assert 0 < entry.clean <= 100
        assert (entry.mean is None) == (entry.std is None)
        if entry.mean is not None:
            assert len(entry.mean) == len(entry.std) == 3
        if entry.architecture:
            assert callable(architecture(entry.architecture))
        if entry.preprocessing:
            assert preprocessing.side(entry.preprocessing) in (224, 288)
        if entry.eps is None:
            assert entry.threat == "corruptions"


def test_published_numbers_on_corruptions_are_of_the_board():
    """ResNet-50 of torchvision: 76.38 and 73.16 in RobustBench's Standard_R50.json."""
    found = known_checkpoints.on_corruptions()
    board = [e for e in entries() if e.dataset == "imagenet2012" and e.threat == "corruptions"]
    assert set(found) == {entry.name for entry in board}
    assert found["Standard_R50"] == (76.38, 47.12, 73.16)
    # More accurate on the fifteen means a smaller mCE, which weighs corruptions otherwise: all but nearly.
    ranks = sorted(board, key=lambda entry: entry.robust)
    errors = [found[entry.name].mce for entry in ranks]
    assert max(b - a for a, b in itertools.pairwise(errors)) < 1


def test_published_cells_average_to_the_board():
    """RobustBench's mean is that of the 75 cells, rounded or cut to a hundredth of a percent."""
    board = {e.name: e.robust for e in entries() if (e.dataset, e.threat) == ("cifar10", "corruptions")}
    assert set(board) - set(known_checkpoints.cells()) == {"Addepalli2022Efficient_WRN_34_10"}
    for name, published in known_checkpoints.cells().items():
        assert len(published) == 75
        assert sum(published.values()) / 75 == pytest.approx(board[name], abs=0.01)
    assert known_checkpoints.cells()["Standard"]["fog", 5] == 73.99


def test_cells_of_other_files_are_doubted():
    """Of 10,000 images 73.99 % have a standard deviation of 0.44 %: 1 % off is possible among 75, 3 % is not."""
    published = {("fog", 5): 73.99, ("fog", 1): 94.51}
    assert not known_checkpoints.doubt_cells(published, {("fog", 5): 7299, ("snow", 1): 3}, 10_000).raised
    flag = known_checkpoints.doubt_cells(published, {("fog", 5): 7099, ("fog", 1): 9451}, 10_000)
    assert flag.raised and "1 of 2 cells differ" in flag.says and "fog at severity 5" in flag.says


def test_names_on_several_boards_need_the_board():
    with pytest.raises(ValueError, match=r"several boards.*cifar10/l2/Standard"):
        known("Standard")
    assert known("cifar10/l2/Standard").eps == 0.5
    with pytest.raises(ValueError, match=r"did you mean.*Carmon2019Unlabeled"):
        known("Carmon2019Unlabelled")


def test_another_file_is_doubted():
    """Of 1,000 images 87.5 % have a standard deviation of 1.05 %: 3 % off is possible, 6 % is not."""
    entry = known("Gowal2021Improving_28_10_ddpm_100m")
    assert not doubt(entry, 875, 1000).raised
    assert not doubt(entry, 850, 1000).raised
    flag = doubt(entry, 815, 1000)
    assert flag.raised
    assert "81.50 % of 1000 images" in flag.says
    assert "87.5 %" in flag.says
    assert not doubt(entry, 8, 8).raised
    assert re.search(r"63\.38 % under AutoAttack in linf at 0\.03137", entry.published())


def test_the_table_says_where_it_is_from():
    assert known_checkpoints.TABLE.read_text().startswith("# RobustBench 1.1.1")
