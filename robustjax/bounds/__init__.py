"""What can be proved about a network over a threat: bounds on its outputs, its confidence, its detection.

```
program      a function as a flat list of primitive operations
arithmetic   what an operation does to intervals, and which operations are affine
curves       straight lines below and above a function of one number
activations  which functions of one number are known, as primitives and as networks write them
relaxation   affine functions below and above every operation
backward     CROWN: these put in from the output backwards
optimised    alpha-CROWN: with slopes that are optimised, those behind the output or behind every interval
enclosure    enclose: bounds of any function's outputs over a threat, by any of these; differences of its logits
rounding     what floating point may do to a network and to its bounds, which are moved outwards by it
domains      sub-domains of a threat, by cuts of single numbers, and bounds over them: beta-CROWN
cuts         which number to cut next, and where
branching    what is computed for a batch of sub-domains
open_domains those that are not decided, on the host
search_state where that is for one example, kept and taken up again
complete     branch_and_bound: complete verification of small networks, or undecided when a budget ends
affine       exact bounds where the function is affine: its first layers and its last ones
confidence   from differences: how sure a prediction can be at most and at least; certified scores and AUROC
```

Every bound holds for all points of the threat up to rounding, that of float32 or of whatever the network computes
in, so certify in float32. With `outward`, and always for margins and in branch and bound, it holds for the network as
it is computed in floating point, in whatever order sums are taken: see `rounding`. Bounds may be differentiated, swept
over radii and trained on. Functions must treat examples on their own (BatchNorm in evaluation mode) and be made of the
operations listed in `arithmetic`, `activations` and `relaxation`; another one raises an error that names it.
"""

from robustjax.bounds.complete import branch_and_bound as branch_and_bound
from robustjax.bounds.confidence import guaranteed_auroc as guaranteed_auroc
from robustjax.bounds.confidence import highest_msp as highest_msp
from robustjax.bounds.confidence import lowest_msp as lowest_msp
from robustjax.bounds.enclosure import enclose as enclose
