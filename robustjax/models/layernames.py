"""The names in a state dict of PyTorch: without what wrapped the network, and without what it never reads."""

import re
from collections.abc import Iterable

# Around the network proper: parallel and compiled modules, wrappers that normalise (then it is the second of two).
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "1.")
# Left behind by training code and never read by the network that the file is of.
DEAD = (
    r"(^|\.)num_batches_tracked$",  # BatchNorm's count of updates
    r"(^|\.)(relative_position_index|attn_mask)$",  # Swin's constants
    r"^n_averaged$",  # weight averaging's
    r"^sub_block1\.",  # TRADES: a group of blocks that is built but not called
    r"^model_preact_hl1\.",  # aliases of the first layers
    r"^attacker\.",  # the `robustness` library: the same network once more, within its attack
    r"^branch\d+\.",  # aliases of the members of an ensemble
    r"^block\d+\.layer\.\d+\.activation\.",  # aliases of the one activation that is learned
    r"^_comp_model\.",  # a second name of a mixture
    r"^std_map\.",  # of a mixture: a smooth form of the decision that is mixed
    r"(^|\.)(flag_update_statistics|batch_num|momentum|epsilon)$",  # what MeanSparse took its statistics by
)
# A mixture's networks have names, those of an ensemble numbers; what is neither's is the mixing network's.
MEMBERS = (
    (r"^(comp_model\.)?policy_net\.", "models.2."),
    (r"^comp_model\.(?=bn\.|(gamma|alpha)_(scale|bias)$|(std|rob)_scale$)", "models.2."),
    (r"^comp_model\.(?=models\.)", ""),
    (r"^std_model\.", "models.0."),
    (r"^rob_model\.", "models.1."),
    (r"^(?=_alpha|rob_map\.)", "models.2."),
)
STORED = r"^(?:(?:normalize|normalizer|normalization|normalise|normaliser|normalisation|0)\.)?(?:new_)?"
MEAN, STD = re.compile(STORED + r"(?:mean|mu)$"), re.compile(STORED + r"(?:std|sigma)$")


def bare(names: Iterable[str]) -> dict[str, str]:
    """Strip wrappers off the names of a state dict and drop what is not of the network.

    Returns:
      From bare to full name.
    Raises:
      ValueError: if two tensors have the same bare name.
    """
    found: dict[str, str] = {}
    for full in names:
        name = _unwrapped(full)
        for pattern, member in MEMBERS:
            if place := re.match(pattern, name):
                name = member + _unwrapped(name[place.end() :])
                break
        if any(re.search(pattern, name) for pattern in DEAD):
            continue
        if name in found:
            raise ValueError(f"{found[name]} and {full} are both {name} without their wrappers")
        found[name] = full
    return found


def _unwrapped(name: str) -> str:
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name[len(wrapper) :]
    return name
