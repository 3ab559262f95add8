"""Everything that the networks do differently on a CPU, behind one interface.

The rest of `models` calls these and knows no more:

```
convolve         a convolution; fits `flax.linen.Conv(conv_general_dilated=...)`
multiplied       the matrix product of an affine layer
doubled          the transposed convolution of stride 2, to twice the size
halved           the 3x3 convolution of stride 2, for many kernels at once
max_pool, avg_pool  pooling over disjoint windows
```

Which form is computed follows the platform that a program is compiled for: on an accelerator convolutions are jax's,
with jax's gradients. Where a network computes in bfloat16, gradients of its kernels are float32. What the forms for a
CPU gain is measured by `experiments.benchmarks.cpu_layers`.

```
by_platform      bilinear maps with a form for CPUs and a form for other platforms, chosen when they are lowered
convolution      gradients in the order that is fast inside loops; products for 1x1, single pixels and small strides
affine           the matrix product of an affine layer, the same on all platforms
planes           convolutions of few channels, as products over planes of pixels
shifts           gradients of kernels, as products of shifted columns with shifted rows
transposed       transposed convolutions of stride 2, as four plain ones
patches          strided convolutions with many kernels, as products over patches
rewritten        somebody's network with these convolutions
pooling          maxima and sums of slices, with gradients written out; the same on all platforms
```
"""

from robustjax.models.cpu.affine import multiplied as multiplied
from robustjax.models.cpu.convolution import convolve as convolve
from robustjax.models.cpu.patches import halved as halved
from robustjax.models.cpu.pooling import avg_pool as avg_pool
from robustjax.models.cpu.pooling import max_pool as max_pool
from robustjax.models.cpu.transposed import doubled as doubled
