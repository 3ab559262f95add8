"""Networks as `Model`s. flax.linen lives here and nowhere else.

```
cpu              convolutions and pooling that are computed in other forms on a CPU, behind one interface
layers           convolution, linear and BatchNorm as PyTorch has them
normalisation    channel means and standard deviations of data sets
adapters         from networks of flax, Equinox, Haiku and PyTorch to a Model, a Network or a function
small            linear, mlp; convnet_small, convnet, tiny, pooled, strided: a few convolutions and a hidden layer
resnet           resnet18, resnet34, resnet50 for small images
resnet_small     resnet8, for a CPU
preact           preact_resnet18
wideresnet       wideresnet: WRN-depth-width
densenet         densenet: DenseNet-BC
densenet_imagenet  densenet121_imagenet for large images
```

```
resnet_imagenet  resnet18_imagenet, resnet50_imagenet, wideresnet50_2_imagenet for large images
resnext          resnext: ResNeXt-29 for small images
alexnet          alexnet, as torchvision has it
bit              bit_resnet: BiT, with group normalisation and standardised kernels
convnext         convnext: ConvNeXt-T and larger ones for large images, with other stems
convnext_v2      convnext_v2: ConvNeXt V2-L and others of its kind
vit              vit: vision transformers, ViT and DeiT
xcit             xcit: transformers with attention between channels, for large and small images
swin             swin: transformers with attention within shifted windows, for large images
rawideresnet_imagenet  rawideresnet_imagenet: RaWRN-101-2, for large images
preactivated     residual networks that activate before they convolve, in the forms of public code
published        the variants of preact that public checkpoints are of
published_wide   the variants of wideresnet that public checkpoints are of
standardised     networks that standardise each image by itself
ensemble         ensembles that average probabilities
adaptive_smoothing  adaptive_smoothing: a third network decides how far to trust an accurate or a robust one
mixednuts        mixednuts: the decision of an accurate network and the sharpened probabilities of a robust one
published_mixtures  the mixtures that public checkpoints are of
architectures    the networks that published weights are of, by name
weights          imported: a network with the weights of a PyTorch checkpoint; load, constants, into, fingerprint
recognition      which architecture the names and shapes of tensors are of
initialisation   for_intervals: weights that certified training starts from
running_statistics  whether BatchNorm layers see what they saw in training
layernames       the names in a state dict, without wrappers
layouts          how public PyTorch code names layers
tensorfiles      .safetensors and the files of torch.save as numpy arrays
pickles          pickles, read without running them
```

```
cvae             conditional variational autoencoders of perturbations as pure functions: prior, posterior, decode
cvae_small       dense, mnist_dense, mnist_conv
cvae_stn         mnist_stn: a decoder of spatial transformers
cvae_rectangle   rectangle: for CIFAR-10
unet             segmenter, and scenes: an autoencoder of scenes under many lights, for any size
resampling       change the size of feature maps
```

```
selfsup          small_encoder, resnet18_encoder, resnet50_encoder: features learned without labels
translator       unet_translator (the generator of pix2pix), autoencoder: from images to images
critics          patch_critic, multiscale_critic: which patches of a pair of images look real
pix2pixhd        global_generator, local_generator: those of pix2pixHD
diffusion        the variance-preserving process, and small_denoiser, which predicts noise
```

A factory takes keyword-only settings and returns a Model (or a CVAE); its feature taps are named stage0, stage1, ... by
depth, and the last one is what the final linear layer reads.
"""

from robustjax.models.adapters import from_flax as from_flax
from robustjax.models.densenet import densenet as densenet
from robustjax.models.densenet_imagenet import densenet121_imagenet as densenet121_imagenet
from robustjax.models.preact import preact_resnet18 as preact_resnet18
from robustjax.models.published import preact_resnet18_rice as preact_resnet18_rice
from robustjax.models.published import preact_resnet18_wong as preact_resnet18_wong
from robustjax.models.published_wide import wideresnet_gowal as wideresnet_gowal
from robustjax.models.resnet import resnet18 as resnet18
from robustjax.models.resnet import resnet34 as resnet34
from robustjax.models.resnet import resnet50 as resnet50
from robustjax.models.resnet_imagenet import resnet18_imagenet as resnet18_imagenet
from robustjax.models.resnet_imagenet import resnet50_imagenet as resnet50_imagenet
from robustjax.models.resnet_small import resnet8 as resnet8
from robustjax.models.small import convnet as convnet
from robustjax.models.small import convnet_small as convnet_small
from robustjax.models.small import linear as linear
from robustjax.models.small import mlp as mlp
from robustjax.models.small import pooled as pooled
from robustjax.models.small import strided as strided
from robustjax.models.small import tiny as tiny
from robustjax.models.wideresnet import wideresnet as wideresnet
