"""Images by name, batches without end, augmentation and outliers.

tensorflow-datasets lives here and nowhere else.

sources    load a split by name: prepared TFDS data, or the embedded sets
digits     embedded: scikit-learn's digits
order      which examples are held out, and the order of every epoch, by hashing
batches    stream, pairs and evaluation: exact to resume, the same on any number of devices
decode     a prepared split as plain arrays, kept beside it
resize     scale and crop to one size
store      arrays as a prepared TFDS data set, all or nothing
"""

from robustjax.data.batches import evaluation, pairs, stream
from robustjax.data.sources import Split, load

__all__ = ["Split", "evaluation", "load", "pairs", "stream"]
