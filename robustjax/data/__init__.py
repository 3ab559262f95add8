"""Images by name, batches without end, augmentation and OOD images.

tensorflow-datasets lives here and nowhere else.

```
sources              load a split by name: prepared TFDS data, then the embedded sets; or make one of arrays
subsets              what --images says: a stratified subset, or the first in official order
digits               embedded: scikit-learn's digits
letters              embedded: letters in the look of the digits, as OOD images
order                which examples are held out, and the order of every epoch, by hashing
batches              stream, pairs and evaluation: exact to resume, the same on any number of devices
feeding              pictures decoded ahead by worker processes of Grain, own rows only
random_window        windows of random size and shape, as torchvision's RandomResizedCrop
augment              crop, flip, cutout on the device
mixing               two images made one, with their labels: MixUp and CutMix
projective           rotate, shift and tilt, as traffic signs are augmented
views                random views for contrastive learning
autoaugment          the policies of AutoAugment for CIFAR-10 and SVHN, on the device
pillow_tones         Pillow's changes of tone as array code
pillow_affine        Pillow's affine transforms as array code
ood_images           OOD images: noise, and in-distribution images that were changed
photos               OOD images: patches of scikit-learn's two photographs
lit                  scenes under many lights as a split, the pictures of one below the other
lit_scenes           embedded: rendered scenes under 25 lights, with the material of every pixel
multi_illumination   the Multi-Illumination data set: a TFDS builder over the raw tree, at any level
scenes               images whose foreground and background are known: labels, groups, masks
planted              real digits on textures: core and spurious features under control
planted_pictures     pictures of any labelled set on textures, the same
placing              which background each planted object is shown on
rebalance            rows so that rare groups, or past errors, count more
painting             the pieces of a planted scene: enlarged digits, textures
extra                unlabelled images; pseudo-labelled ones beside the labelled: enriched
checks               is this array what everything here works on?
```

```
array_pickles        pickles of plain values and arrays, read without running them
decode               a prepared split as plain arrays, kept beside it
store                arrays as a prepared TFDS data set, all or nothing
store_pictures       pictures as a prepared set of checked records, bytes of files kept
picture_records      such records, and those of TFDS, by number: checked, also in other processes
raw                  raw files as the contents of a data set, verified against what is known
known                classes, counts and checksums of public sets
layouts              raw files that are arrays: idx, npy, npz
cifar                CIFAR's pickles and binaries, and CIFAR-10-C
corrupted_arrays     CIFAR-10-C and CIFAR-100-C beside the images they were made of
corrupted_trees      ImageNet-C and ImageNet-3DCC beside the pictures they were made of
pictures             folders and zip files of pictures
paired               pairs of pictures of the same content, from a user's folder
omniglot             Omniglot's zip files
svhn                 SVHN's MATLAB files
tiny_imagenet        Tiny ImageNet's folders
tiny_images          80 Million Tiny Images, whole or a sample, without what the lists name
restricted_imagenet  nine groups of ImageNet's classes, and the others as OOD images
imagenet_minus       ImageNet without what looks like CIFAR-10's classes
gtsrb                German traffic signs, as ALOE takes them
ood_pictures         LSUN, iSUN, Places365: pictures of no class
preprocessing        scale and crop by name, to the pixel of torchvision: Res256Crop224 ...
lazy_pictures        pictures decoded when rows are asked for, in the place of an array
picture_tree         ImageNet's validation images as a folder tree, all or those of a list
imglist              OpenOOD's lists of images: one path and label a line
overlap              images that two sets share
resize               scale and crop to one size
```

```
trees                pictures and masks of a published folder tree, decoded when asked for
waterbirds           landbirds and waterbirds on land and water
waterbirds_built     the same made anew of CUB and Places
imagenet9            the backgrounds challenge, and its map of ImageNet's classes
rival10              ten classes with masks of the objects
salient_imagenet     soft masks of core and spurious features
objectnet            objects in unusual places, and the map of ImageNet's classes
```
"""

from robustjax.data.batches import evaluation as evaluation
from robustjax.data.batches import pairs as pairs
from robustjax.data.batches import reading_state as reading_state
from robustjax.data.batches import stream as stream
from robustjax.data.sources import Info as Info
from robustjax.data.sources import Split as Split
from robustjax.data.sources import Subset as Subset
from robustjax.data.sources import load as load
from robustjax.data.sources import of_arrays as of_arrays
