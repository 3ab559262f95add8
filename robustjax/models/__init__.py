"""Networks as `Model`s. flax.linen lives here and nowhere else.

convolution    a convolution whose gradients stay fast inside loops on the CPU
layers         convolution, linear, BatchNorm and pooling as PyTorch has them
normalisation  channel means and standard deviations of data sets
adapters       from a flax module to a Model
small          linear, mlp, convnet_small, convnet
"""
